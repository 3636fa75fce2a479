//! What a client asks of a stream: read from the query of the API's subresources (`stdin=true`) or of the node's own
//! paths (`input=1`), refused in upstream's words.

use crate::problem::Problem;
use crate::query::Query;

/// Whose names the query uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The API's `PodExecOptions`, `PodAttachOptions` and `PodPortForwardOptions`.
    Api,
    /// The node's `/exec`, `/attach` and `/portForward`.
    Node,
}

/// The streams of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommandStreams {
    /// The client sends input.
    pub stdin: bool,
    /// The client wants standard output.
    pub stdout: bool,
    /// The client wants standard error; never with a terminal, which has one output.
    pub stderr: bool,
    /// The command has a terminal, whose size the client may change.
    pub tty: bool,
}

/// What exec and attach are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOptions {
    /// The container; the only one of the pod when absent. In the API's dialect only.
    pub container: Option<String>,
    /// The command and its arguments (exec).
    pub command: Vec<String>,
    /// Its streams.
    pub streams: CommandStreams,
}

impl CommandOptions {
    /// Reads a query.
    ///
    /// # Errors
    /// 400 when no stream is asked for (upstream `remotecommand.NewOptions`).
    pub fn from_query(query: &str, dialect: Dialect) -> Result<Self, Problem> {
        let query = Query::parse(query);
        let flag = |api: &str, node: &str| match dialect {
            Dialect::Api => query.flag(api),
            Dialect::Node => query.first(node) == Some("1"),
        };
        let tty = flag("tty", "tty");
        let streams = CommandStreams {
            stdin: flag("stdin", "input"),
            stdout: flag("stdout", "output"),
            stderr: flag("stderr", "error") && !tty,
            tty,
        };
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return Err(Problem::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        let container = query.first("container").filter(|name| !name.is_empty() && dialect == Dialect::Api);
        Ok(Self {
            container: container.map(str::to_owned),
            command: query.all("command").map(str::to_owned).collect(),
            streams,
        })
    }
}

/// The ports a WebSocket client names in its query: one pair of channels for each. A client of SPDY, or of SPDY inside
/// a WebSocket, names them stream by stream instead, and gets none here.
///
/// # Errors
/// 400 when a WebSocket client names none, or something that is no port (upstream `portforward.NewV4Options`).
pub fn port_forward_ports(
    query: &str,
    dialect: Dialect,
    headers: &http::HeaderMap,
) -> Result<Vec<i32>, Problem> {
    if !super::negotiate::is_plain_web_socket(headers) {
        return Ok(Vec::new());
    }
    let query = Query::parse(query);
    let values: Vec<&str> = match dialect {
        Dialect::Api => query.all("ports").collect(),
        Dialect::Node => query.all("port").collect(),
    };
    if values.is_empty() {
        return Err(Problem::bad_request("query parameter \"port\" is required"));
    }
    let mut ports = Vec::new();
    for value in values {
        if value.is_empty() {
            return Err(Problem::bad_request("query parameter \"port\" cannot be empty"));
        }
        for text in value.split(',') {
            match text.parse::<u16>() {
                Ok(0) => return Err(Problem::bad_request(format!("port {value:?} must be > 0"))),
                Ok(port) => ports.push(i32::from(port)),
                Err(_) => {
                    let why = crate::query::integer(text).err();
                    let why = why.unwrap_or_else(|| {
                        format!("strconv.ParseUint: parsing {text:?}: value out of range")
                    });
                    let why = why.replace("ParseInt", "ParseUint");
                    return Err(Problem::bad_request(format!("unable to parse {value:?} as a port: {why}")));
                }
            }
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    #[test]
    fn reads_both_dialects() {
        let api = CommandOptions::from_query(
            "command=sh&command=-c&command=ls%20%2F&container=c&stdin=true&stdout=1&stderr=true&tty=false",
            Dialect::Api,
        )
        .unwrap();
        assert_eq!(api.command, ["sh", "-c", "ls /"]);
        assert_eq!(api.container.as_deref(), Some("c"));
        assert_eq!(api.streams, CommandStreams { stdin: true, stdout: true, stderr: true, tty: false });
        let node =
            CommandOptions::from_query("input=1&output=1&error=1&tty=1&stdin=true", Dialect::Node).unwrap();
        assert_eq!(node.streams, CommandStreams { stdin: true, stdout: true, stderr: false, tty: true });
        for (query, dialect) in
            [("", Dialect::Api), ("output=true", Dialect::Node), ("stderr=1&tty=1", Dialect::Api)]
        {
            let problem = CommandOptions::from_query(query, dialect).unwrap_err();
            assert_eq!(problem.message, "you must specify at least 1 of stdin, stdout, stderr", "{query}");
        }
    }

    #[test]
    fn reads_ports_of_web_sockets_only() {
        let mut headers = HeaderMap::new();
        assert_eq!(port_forward_ports("", Dialect::Api, &headers), Ok(vec![]));
        headers.insert("connection", "Upgrade".parse().unwrap());
        headers.insert("upgrade", "websocket".parse().unwrap());
        assert_eq!(port_forward_ports("ports=80,81&ports=9", Dialect::Api, &headers), Ok(vec![80, 81, 9]));
        assert_eq!(port_forward_ports("port=80", Dialect::Node, &headers), Ok(vec![80]));
        for (query, message) in [
            ("", "query parameter \"port\" is required"),
            ("port=", "query parameter \"port\" cannot be empty"),
            ("port=0", "port \"0\" must be > 0"),
            ("port=x", "unable to parse \"x\" as a port: strconv.ParseUint: parsing \"x\": invalid syntax"),
            (
                "port=65536",
                "unable to parse \"65536\" as a port: strconv.ParseUint: parsing \"65536\": value out of range",
            ),
        ] {
            assert_eq!(port_forward_ports(query, Dialect::Node, &headers).unwrap_err().message, message);
        }
        headers.insert("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io".parse().unwrap());
        assert_eq!(port_forward_ports("", Dialect::Api, &headers), Ok(vec![]));
    }
}
