//! Which requests can be made, from the registry of kinds: paths, parameters, bodies, answers.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::kinds::{Resource, Subresource};
use crate::model;
use crate::schemas::Dialect;

/// One request that can be made.
pub struct Operation {
    /// In small letters.
    method: &'static str,
    /// What it does, in the API's words (`x-kubernetes-action`).
    action: &'static str,
    id: String,
    description: String,
    tag: String,
    kind: (String, String, String),
    query: Vec<&'static str>,
    body: Option<String>,
    answer: Option<String>,
}

/// Requests by path; the last word tells in which version's document a path is.
pub type Paths = BTreeMap<String, Vec<Operation>>;

const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

const PATCH_TYPES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
const TYPES: &[&str] = &["application/json", "application/yaml"];

const LIST: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITE: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const DELETE: &[&str] = &["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];

/// Query and path parameters: name, type, what it is for.
const PARAMETERS: &[(&str, &str, &str)] = &[
    (
        "allowWatchBookmarks",
        "boolean",
        "Ask a watch to tell its resourceVersion now and then, as BOOKMARK events.",
    ),
    ("command", "string", "The command to run, not in a shell; given once for each of its words."),
    ("container", "string", "The container of the pod; may be left out when it has only one."),
    ("continue", "string", "Where an earlier list with a limit stopped, as its answer said."),
    ("dryRun", "string", "All: go through everything except storing the result."),
    ("fieldManager", "string", "The name under which the request owns the fields it sets."),
    ("fieldSelector", "string", "Which objects, by fields."),
    (
        "fieldValidation",
        "string",
        "What unknown and repeated fields are: nothing (Ignore), a warning (Warn), or an error (Strict).",
    ),
    ("follow", "boolean", "Go on with new lines as they come."),
    (
        "force",
        "boolean",
        "For apply requests: take over fields that others own. Other patches must not have it.",
    ),
    ("gracePeriodSeconds", "integer", "Seconds before the object goes; 0 is at once."),
    ("insecureSkipTLSVerifyBackend", "boolean", "Taken and not needed: the node is in this process."),
    ("labelSelector", "string", "Which objects, by labels."),
    ("limit", "integer", "How many objects to answer at most; the rest by continue."),
    ("limitBytes", "integer", "How many bytes of log at most."),
    ("name", "string", "The name of the object."),
    ("namespace", "string", "The namespace of the object."),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("path", "string", "The path of what is asked for on the other side."),
    ("ports", "integer", "The ports to forward."),
    ("previous", "boolean", "The log of the container before the last restart."),
    (
        "propagationPolicy",
        "string",
        "What becomes of what the object owns: Orphan, Background or Foreground.",
    ),
    (
        "resourceVersion",
        "string",
        "The version that the answer must not be older than, or is to start after.",
    ),
    ("resourceVersionMatch", "string", "How resourceVersion is meant: Exact or NotOlderThan."),
    ("sendInitialEvents", "boolean", "Start a watch with what is there."),
    ("sinceSeconds", "integer", "Only lines of the last so many seconds."),
    ("stderr", "boolean", "Whether error output is wanted."),
    ("stdin", "boolean", "Whether input will be sent."),
    ("stdout", "boolean", "Whether output is wanted."),
    ("stream", "string", "Which of the container's outputs: All, Stdout or Stderr."),
    ("tailLines", "integer", "How many of the last lines."),
    ("timeoutSeconds", "integer", "How long a list or watch may take."),
    ("timestamps", "boolean", "Put the time before each line."),
    ("tty", "boolean", "Whether the streams are a terminal."),
    ("watch", "boolean", "Go on with changes, as events."),
];

/// Methods of streams, and of requests that go on to somebody else.
const STREAMED: &[&str] = &["get", "post"];
const PROXIED: &[&str] = &["delete", "get", "head", "options", "patch", "post", "put"];

fn query_of(subresource: &str) -> &'static [&'static str] {
    match subresource {
        "log" => &[
            "container",
            "follow",
            "insecureSkipTLSVerifyBackend",
            "limitBytes",
            "previous",
            "sinceSeconds",
            "stream",
            "tailLines",
            "timestamps",
        ],
        "exec" => &["command", "container", "stderr", "stdin", "stdout", "tty"],
        "attach" => &["container", "stderr", "stdin", "stdout", "tty"],
        "portforward" => &["ports"],
        "proxy" => &["path"],
        _ => &[],
    }
}

/// `events.k8s.io` as `Events`, the core group as `Core`: a group in names of operations.
fn camel(group: &str) -> String {
    let group = if group.is_empty() { "core" } else { group.strip_suffix(".k8s.io").unwrap_or(group) };
    group.split('.').map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// The path of a group version, such as `/api/v1`.
pub fn root(resource: &Resource) -> String {
    if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    }
}

struct Maker<'a> {
    resource: &'a Resource,
    scope: &'static str,
    of: Option<String>,
}

impl Maker<'_> {
    /// `verb` may have a second part, which operations' names have after the group version: `delete Collection`.
    fn operation(&self, method: &'static str, action: &'static str, verb: &str, suffix: &str) -> Operation {
        let (verb, infix) = verb.split_once(' ').unwrap_or((verb, ""));
        let Resource { group, version, kind, .. } = self.resource;
        let tag = camel(group);
        let tag = format!("{}{}_{version}", tag[..1].to_lowercase(), &tag[1..]);
        Operation {
            method,
            action,
            id: format!("{verb}{}{}{infix}{}{kind}{suffix}", camel(group), capital(version), self.scope),
            description: String::new(),
            tag,
            kind: (group.to_string(), version.to_string(), kind.to_string()),
            query: Vec::new(),
            body: None,
            answer: self.of.clone(),
        }
    }

    fn says(&self, what: &str) -> String {
        format!("{what} {}", self.resource.kind)
    }

    fn collection(&self) -> Vec<Operation> {
        let mut all = Vec::new();
        for verb in self.resource.verbs {
            match *verb {
                "list" => all.push(Operation {
                    query: LIST.to_vec(),
                    answer: self.of.as_ref().map(|of| format!("{of}List")),
                    description: self.says("list or watch objects of kind"),
                    ..self.operation("get", "list", "list", "")
                }),
                "create" => all.push(Operation {
                    query: WRITE.to_vec(),
                    body: self.of.clone(),
                    description: self.says("create a"),
                    ..self.operation("post", "post", "create", "")
                }),
                "deletecollection" => all.push(Operation {
                    query: [DELETE, LIST].concat(),
                    body: Some(DELETE_OPTIONS.to_owned()),
                    answer: Some(STATUS.to_owned()),
                    description: self.says("delete the selected objects of kind"),
                    ..self.operation("delete", "deletecollection", "delete Collection", "")
                }),
                _ => {}
            }
        }
        all
    }

    /// The requests on one object, or on a part of it.
    fn item(&self, verbs: &[&str], suffix: &str, what: &str) -> Vec<Operation> {
        let mut all = Vec::new();
        for verb in verbs {
            match *verb {
                "get" => all.push(Operation {
                    description: self.says(&format!("read {what}")),
                    ..self.operation("get", "get", "read", suffix)
                }),
                "update" => all.push(Operation {
                    query: WRITE.to_vec(),
                    body: self.of.clone(),
                    description: self.says(&format!("replace {what}")),
                    ..self.operation("put", "put", "replace", suffix)
                }),
                "patch" => all.push(Operation {
                    query: [WRITE, &["force"]].concat(),
                    body: Some(PATCH.to_owned()),
                    description: self.says(&format!("change part of {what}")),
                    ..self.operation("patch", "patch", "patch", suffix)
                }),
                "delete" => all.push(Operation {
                    query: DELETE.to_vec(),
                    body: Some(DELETE_OPTIONS.to_owned()),
                    description: self.says("delete a"),
                    ..self.operation("delete", "delete", "delete", suffix)
                }),
                _ => {}
            }
        }
        all
    }

    /// The requests that are answered by somebody else.
    fn connect(&self, sub: &Subresource, methods: &[&'static str], suffix: &str) -> Vec<Operation> {
        let connect = |method: &&'static str| Operation {
            description: format!("connect to {} of a {}", sub.name, self.resource.kind),
            query: query_of(sub.name).to_vec(),
            answer: None,
            ..self.operation(method, "connect", &format!("connect {}", capital(method)), suffix)
        };
        methods.iter().map(connect).collect()
    }

    fn subresource(&self, sub: &Subresource) -> Vec<Operation> {
        let suffix = capital(sub.name);
        let (group, version) = model::split(sub.api_version);
        let kind = (group, version, sub.kind.to_owned());
        let of = model::name_of(sub.api_version, sub.kind);
        let mut all = Vec::new();
        if sub.kind.ends_with("Options") {
            let methods = if sub.name == "proxy" { PROXIED } else { STREAMED };
            all = self.connect(sub, methods, &suffix);
        } else if sub.verbs.contains(&"create") {
            all.push(Operation {
                description: format!("create {} of a {}", sub.name, self.resource.kind),
                query: WRITE.to_vec(),
                body: of.clone(),
                answer: of,
                ..self.operation("post", "post", "create", &suffix)
            });
        } else {
            all = self.item(sub.verbs, &suffix, &format!("{} of a", sub.name));
        }
        for operation in &mut all {
            operation.kind.clone_from(&kind);
            if sub.name == "log" {
                operation.query = query_of(sub.name).to_vec();
                operation.answer = None;
            }
        }
        all
    }
}

/// The requests of one kind.
pub fn of(resource: &Resource) -> Paths {
    let mut paths = Paths::new();
    let of = if model::described(resource) {
        model::name_of(&resource.api_version(), resource.kind)
    } else {
        None
    };
    let scope = if resource.namespaced { "Namespaced" } else { "" };
    let make = Maker { resource, scope, of };
    let place = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{}{place}/{}", root(resource), resource.plural);
    let item = format!("{collection}/{{name}}");
    if resource.namespaced && resource.verbs.contains(&"list") {
        let list = Operation {
            query: LIST.to_vec(),
            answer: make.of.as_ref().map(|of| format!("{of}List")),
            description: make.says("list or watch objects of kind"),
            ..Maker { scope: "", resource, of: None }.operation("get", "list", "list", "ForAllNamespaces")
        };
        paths.insert(format!("{}/{}", root(resource), resource.plural), vec![list]);
    }
    paths.insert(collection, make.collection());
    // A kind that takes a cluster can be created as far as clients look: the server's answer tells the rest.
    let verbs = if model::described(resource) { resource.verbs } else { &["get", "patch"] };
    paths.insert(item.clone(), make.item(verbs, "", "a"));
    for sub in resource.subresources {
        let operations = make.subresource(sub);
        if sub.name == "proxy" {
            let mut with_path = make.subresource(sub);
            with_path.iter_mut().for_each(|operation| operation.id.push_str("WithPath"));
            with_path.iter_mut().for_each(|operation| operation.query.clear());
            paths.insert(format!("{item}/proxy/{{path}}"), with_path);
        }
        paths.insert(format!("{item}/{}", sub.name), operations);
    }
    paths.retain(|_, operations| !operations.is_empty());
    paths
}

/// The name of a query parameter and what it holds.
fn parameter(name: &str, place: &str, dialect: Dialect) -> Value {
    let (of, description) = PARAMETERS
        .iter()
        .find(|p| p.0 == name)
        .map_or(("string", ""), |(_, of, description)| (*of, *description));
    let mut parameter = json!({"name": name, "in": place, "description": description});
    if place == "path" {
        parameter["required"] = true.into();
    }
    match dialect {
        Dialect::V2 => {
            parameter["type"] = of.into();
            parameter["uniqueItems"] = true.into();
        }
        Dialect::V3 => parameter["schema"] = json!({"type": of, "uniqueItems": true}),
    }
    parameter
}

/// What the documents say of one path.
pub fn say(path: &str, operations: &[Operation], dialect: Dialect) -> Value {
    let mut said = Map::new();
    for operation in operations {
        said.insert(operation.method.to_owned(), say_operation(operation, dialect));
    }
    let of_path: Vec<Value> = ["name", "namespace", "path"]
        .iter()
        .filter(|name| path.contains(&format!("{{{name}}}")))
        .map(|name| parameter(name, "path", dialect))
        .collect();
    if !of_path.is_empty() {
        said.insert("parameters".to_owned(), of_path.into());
    }
    said.into()
}

fn say_operation(of: &Operation, dialect: Dialect) -> Value {
    let (group, version, kind) = &of.kind;
    let mut said = json!({
        "description": of.description,
        "operationId": of.id,
        "tags": [of.tag],
        "x-kubernetes-action": of.action,
        "x-kubernetes-group-version-kind": {"group": group, "version": version, "kind": kind},
    });
    let mut parameters: Vec<Value> = of.query.iter().map(|name| parameter(name, "query", dialect)).collect();
    let takes = if of.method == "patch" { PATCH_TYPES } else { TYPES };
    let required = of.method != "delete";
    match dialect {
        Dialect::V2 => {
            let any = of.method == "get" || of.action == "connect";
            said["consumes"] = if any { json!(["*/*"]) } else { json!(takes) };
            said["produces"] = if of.answer.is_some() { json!(TYPES) } else { json!(["*/*"]) };
            said["schemes"] = json!(["https"]);
            if let Some(body) = &of.body {
                let schema = dialect.reference(body);
                parameters
                    .push(json!({"in": "body", "name": "body", "required": required, "schema": schema}));
            }
        }
        Dialect::V3 => {
            if let Some(body) = &of.body {
                said["requestBody"] = json!({"content": content(takes, body, dialect), "required": required});
            }
        }
    }
    if !parameters.is_empty() {
        said["parameters"] = parameters.into();
    }
    let mut codes = vec![("200", "OK")];
    if matches!(of.method, "post" | "put" | "patch") && of.answer.is_some() {
        codes.push(("201", "Created"));
    }
    if matches!(of.method, "post" | "delete") && of.answer.is_some() {
        codes.push(("202", "Accepted"));
    }
    let mut responses = Map::new();
    for (code, description) in codes {
        let mut response = json!({"description": description});
        match (dialect, &of.answer) {
            (Dialect::V2, Some(answer)) => response["schema"] = dialect.reference(answer),
            (Dialect::V2, None) => response["schema"] = json!({"type": "string"}),
            (Dialect::V3, Some(answer)) => response["content"] = content(TYPES, answer, dialect),
            (Dialect::V3, None) => response["content"] = json!({"*/*": {"schema": {"type": "string"}}}),
        }
        responses.insert(code.to_owned(), response);
    }
    responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    said["responses"] = responses.into();
    said
}

fn content(types: &[&str], of: &str, dialect: Dialect) -> Value {
    types
        .iter()
        .map(|media| ((*media).to_owned(), json!({"schema": dialect.reference(of)})))
        .collect::<Map<_, _>>()
        .into()
}
