//! What a request asks for, read from its method, path and query as kube-apiserver's `RequestInfoFactory` reads it.
//!
//! Parsing only: whether there is such a resource or object, and who may, is decided by those who call it.

use http::{Method, Uri};
use rubelet_apimachinery::status::{ApiError, bad_request, unknown_path};

use super::hooks::Attributes;

/// More segments than any path of the API has, log and proxy paths included.
const MAX_SEGMENTS: usize = 32;

/// The decoded query of a request, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// All parameters with their values.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The first value of a parameter, if it is there and not empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }

    /// Whether the parameter is there at all, with a value or without.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// All values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A switch: as Go's conversion reads one, everything but `false` and `0` switches on, if it is there.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        let value = &self.0.iter().find(|(key, _)| key == name)?.1;
        Some(!matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// A whole number.
    ///
    /// # Errors
    /// As the server words a number that is none.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| bad_request(format!("strconv.ParseInt: parsing {}: invalid syntax", quoted(text))))
    }
}

/// A request, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// As in [`Attributes::verb`]; empty for a method that no resource knows.
    pub verb: &'static str,
    /// Whether the path is one of a resource, served or not.
    pub is_resource: bool,
    /// The path, decoded.
    pub path: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The version within the group.
    pub version: String,
    /// The resource, in the plural.
    pub resource: String,
    /// The object's name; for lists and watches the one that a field selector demands.
    pub name: String,
    /// What follows the name, such as `status`.
    pub subresource: String,
    /// The namespace; for a namespace itself its name.
    pub namespace: String,
    /// Decoded segments of the whole path.
    pub(crate) segments: Vec<String>,
    /// Whether something follows the subresource.
    pub(crate) deeper: bool,
    /// What follows `proxy`, from its first slash on and with its escapes: a path on the other side.
    pub(crate) tail: Option<String>,
    /// The decoded query.
    pub query: Query,
}

impl RequestInfo {
    /// Reads method and URI.
    ///
    /// # Errors
    /// 400 for escapes that are none, 404 for paths that are not in their shortest form (`..`, `//`).
    pub fn parse(method: &Method, uri: &Uri) -> Result<Self, ApiError> {
        let path =
            decode(uri.path(), false).ok_or_else(|| bad_request("the path holds an invalid escape"))?;
        let query = parse_query(uri.query().unwrap_or_default());
        let mut segments = Vec::new();
        let mut tail = None;
        let mut left = Some(uri.path().trim_start_matches('/'));
        while let Some(text) = left.filter(|text| !text.trim_matches('/').is_empty()) {
            let end = text.find('/').unwrap_or(text.len());
            let segment = decode(&text[..end], false).ok_or_else(unknown_path)?;
            // An escaped slash would be a way out of the place that the path names.
            if segment.is_empty() || segment == "." || segment == ".." || segment.contains(['/', '\0']) {
                return Err(unknown_path());
            }
            segments.push(segment);
            left = text.get(end + 1..);
            if ends_in_proxy(&segments) {
                tail = Some(text[end..].to_owned()).filter(|tail| !tail.is_empty());
                break;
            }
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(unknown_path());
        }
        let verb = match *method {
            Method::GET | Method::HEAD => "get",
            Method::POST => "post",
            Method::PUT => "put",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            Method::OPTIONS => "options",
            _ => "",
        };
        let mut info = Self { verb, path, query, segments, tail, ..Self::default() };
        info.read_resource();
        Ok(info)
    }

    fn read_resource(&mut self) {
        let parts: Vec<&str> = self.segments.iter().map(String::as_str).collect();
        let (group, version, mut rest) = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return,
        };
        let mut verb = match self.verb {
            "post" => "create",
            "put" => "update",
            verb @ ("get" | "patch" | "delete") => verb,
            _ => "",
        };
        if rest[0] == "watch" && rest.len() > 1 {
            rest = &rest[1..];
            verb = "watch";
        }
        let mut namespace = "";
        if rest[0] == "namespaces" && rest.len() > 1 {
            namespace = rest[1];
            if rest.len() > 2 && !matches!(rest[2], "status" | "finalize") {
                rest = &rest[2..];
            }
        }
        let at = |index: usize| rest.get(index).map(|s| (*s).to_owned()).unwrap_or_default();
        let (resource, name, subresource) = (at(0), at(1), at(2));
        let deeper = rest.len() > 3;
        let (group, version, namespace) = (group.to_owned(), version.to_owned(), namespace.to_owned());
        let mut name = name;
        if name.is_empty() && verb == "get" {
            verb = if self.query.flag("watch").unwrap_or(false) { "watch" } else { "list" };
        }
        if name.is_empty() && verb == "delete" {
            verb = "deletecollection";
        }
        if name.is_empty()
            && matches!(verb, "list" | "watch")
            && let Some(selected) = self.selected_name()
        {
            name = selected;
        }
        self.is_resource = true;
        self.verb = verb;
        self.group = group;
        self.version = version;
        self.namespace = namespace;
        self.resource = resource;
        self.name = name;
        self.subresource = subresource;
        self.deeper = deeper;
    }

    /// The name that the field selector demands, if it demands exactly one that a path could hold.
    fn selected_name(&self) -> Option<String> {
        self.query.text("fieldSelector")?.split(',').find_map(|term| {
            let (key, value) = term.split_once('=')?;
            let value = value.strip_prefix('=').unwrap_or(value);
            let fits = key == "metadata.name" && !value.is_empty() && value != "." && value != "..";
            (fits && !value.contains(['/', '%', '\\'])).then(|| value.to_owned())
        })
    }

    /// What authorization is told.
    pub(crate) fn attributes(&self) -> Attributes {
        let text = |text: &str| text.to_owned();
        let selects = matches!(self.verb, "list" | "watch" | "deletecollection");
        let fields = self.query.text("fieldSelector").filter(|_| selects);
        Attributes {
            verb: text(self.verb),
            group: text(&self.group),
            resource: text(&self.resource),
            subresource: text(&self.subresource),
            namespace: text(&self.namespace),
            name: text(&self.name),
            path: text(if self.is_resource { "" } else { &self.path }),
            field_selector: text(fields.unwrap_or_default()),
        }
    }
}

/// Whether what comes after these segments is not this server's to read.
fn ends_in_proxy(segments: &[String]) -> bool {
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    matches!(
        segments.as_slice(),
        ["api", _, "nodes", _, "proxy"] | ["api", _, "namespaces", _, "pods", _, "proxy"]
    )
}

/// Text in double quotes, as Go's `%q` writes what is plain.
pub(crate) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// Decodes a query string; a pair that cannot be decoded is left out, as `url.Values` does.
fn parse_query(query: &str) -> Query {
    let pairs = query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
    Query(
        pairs
            .filter_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((decode(key, true)?, decode(value, true)?))
            })
            .collect(),
    )
}

/// A path on the other side of a proxy, from what follows `proxy`: rooted, with its escapes, and without empty
/// segments. Whether it ends in a slash stays.
///
/// # Errors
/// 404 for segments that lead up, escaped or not.
pub(crate) fn path_beyond(tail: &str) -> Result<String, ApiError> {
    let mut path = String::with_capacity(tail.len() + 1);
    for segment in tail.split('/').filter(|segment| !segment.is_empty()) {
        let plain = decode(segment, false).ok_or_else(unknown_path)?;
        if plain.contains('\0') || plain.split(['/', '\\']).any(|part| part == "." || part == "..") {
            return Err(unknown_path());
        }
        path.push('/');
        path.push_str(segment);
    }
    if tail.ends_with('/') || path.is_empty() {
        path.push('/');
    }
    Ok(path)
}

/// Resolves percent escapes; `None` for an escape that is none and for bytes that are no text.
fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let hex = |index: usize| bytes.get(index).and_then(|b| char::from(*b).to_digit(16));
                let value = hex(at + 1)? * 16 + hex(at + 2)?;
                out.push(u8::try_from(value).ok()?);
                at += 2;
            }
            b'+' if plus_is_space => out.push(b' '),
            other => out.push(other),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, uri: &str) -> Result<RequestInfo, ApiError> {
        RequestInfo::parse(&method.parse().unwrap(), &uri.parse().unwrap())
    }

    #[track_caller]
    fn check(line: &str, verb: &str, place: &str) {
        let (method, uri) = line.split_once(' ').unwrap();
        let info = parse(method, uri).unwrap();
        let found =
            [&info.group, &info.version, &info.namespace, &info.resource, &info.name, &info.subresource];
        let found: Vec<&str> = found.into_iter().map(String::as_str).collect();
        assert_eq!((info.verb, found.join("|").as_str()), (verb, place), "{line}");
    }

    #[test]
    fn paths_are_read_as_the_real_server_does() {
        check("GET /api/v1/pods", "list", "|v1||pods||");
        check("GET /api/v1/pods?watch=true", "watch", "|v1||pods||");
        check("GET /api/v1/pods?watch=0", "list", "|v1||pods||");
        check("GET /api/v1/watch/namespaces/a/pods", "watch", "|v1|a|pods||");
        check("GET /api/v1/watch/namespaces/a/pods/b", "watch", "|v1|a|pods|b|");
        check("GET /api/v1/namespaces", "list", "|v1||namespaces||");
        check("GET /api/v1/namespaces/a", "get", "|v1|a|namespaces|a|");
        check("PUT /api/v1/namespaces/a/finalize", "update", "|v1|a|namespaces|a|finalize");
        check("PATCH /api/v1/namespaces/a/pods/b/status", "patch", "|v1|a|pods|b|status");
        check("DELETE /api/v1/namespaces/a/pods", "deletecollection", "|v1|a|pods||");
        check("DELETE /api/v1/namespaces/a/pods/b", "delete", "|v1|a|pods|b|");
        check(
            "POST /apis/coordination.k8s.io/v1/namespaces/a/leases",
            "create",
            "coordination.k8s.io|v1|a|leases||",
        );
        check("GET /api/v1/pods?fieldSelector=metadata.name%3Dx", "list", "|v1||pods|x|");
        check("GET /api/v1/namespaces/a/pods/b%20c", "get", "|v1|a|pods|b c|");
        check("GET /apis/coordination.k8s.io/v1", "get", "|||||");
        check("POST /healthz", "post", "|||||");
    }

    #[test]
    fn what_follows_proxy_is_not_read() {
        #[track_caller]
        fn tail(path: &str, expected: Option<&str>) {
            let info = parse("GET", path).unwrap();
            assert_eq!((info.subresource.as_str(), info.tail.as_deref()), ("proxy", expected), "{path}");
        }
        check("GET /api/v1/nodes/n:10250/proxy/pods/x", "get", "|v1||nodes|n:10250|proxy");
        check("OPTIONS /api/v1/namespaces/a/pods/b/proxy", "", "|v1|a|pods|b|proxy");
        tail("/api/v1/nodes/n/proxy", None);
        tail("/api/v1/nodes/n/proxy/", Some("/"));
        tail("/api/v1/nodes/n/proxy/logs//a%2Fb/", Some("/logs//a%2Fb/"));
        tail("/api/v1/namespaces/a/pods/b/proxy/../x", Some("/../x"));
        // Services have no proxy here: their paths are read as any other.
        assert!(parse("GET", "/api/v1/namespaces/a/services/b/proxy/..").is_err());
    }

    #[track_caller]
    fn check_beyond(tail: &str, expected: Option<&str>) {
        assert_eq!(path_beyond(tail).ok().as_deref(), expected, "{tail}");
    }

    #[test]
    fn paths_beyond_a_proxy_are_clean() {
        check_beyond("/", Some("/"));
        check_beyond("//", Some("/"));
        check_beyond("/pods", Some("/pods"));
        check_beyond("/logs//a%2Fb%20c/", Some("/logs/a%2Fb%20c/"));
        for bad in
            ["/..", "/a/../b", "/%2e%2e/b", "/a/.%2e", "/a%2F..%2Fb", "/a/./b", "/a%5C..", "/a%00", "/%zz"]
        {
            check_beyond(bad, None);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_path_leads_up(tail in "(/|\\.|%2[eEfF]|%25|%5[cC]|[a-c]){0,24}") {
            if let Ok(path) = path_beyond(&tail) {
                let plain = decode(&path, false).unwrap();
                proptest::prop_assert!(path.starts_with('/'));
                proptest::prop_assert!(!plain.split(['/', '\\']).any(|part| part == ".."), "{}", path);
            }
        }
    }

    #[test]
    fn ways_out_are_refused() {
        for path in [
            "/api/v1/namespaces/../pods",
            "/api/v1/namespaces/%2e%2e/pods",
            "/api/v1/namespaces/a%2Fb/pods",
            "/api/v1//pods",
            "/api/v1/namespaces/a%00/pods",
        ] {
            assert_eq!(parse("GET", path).unwrap_err().code, 404, "{path}");
        }
        assert_eq!(parse("GET", "/api/v1/pods/%zz").unwrap_err().code, 400);
        assert_eq!(parse("GET", "/api/v1/pods/%ff").unwrap_err().code, 400);
    }

    #[test]
    fn queries_are_decoded() {
        let query = parse_query("a=1&b=x+y%3D&a=2&c&bad=%zz&=x");
        assert_eq!(query.text("a"), Some("1"));
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.text("b"), Some("x y="));
        assert_eq!((query.flag("c"), query.text("c"), query.has("c")), (Some(true), None, true));
        assert!(!query.has("bad"));
    }
}
