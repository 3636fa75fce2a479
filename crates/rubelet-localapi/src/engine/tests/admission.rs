//! Who else has a say in writes is asked about each of them, may change it or refuse it, and is not asked for reads.

use std::sync::{Mutex, PoisonError};

use rubelet_apimachinery::ApiError;
use rubelet_apimachinery::status;
use rubelet_apimachinery::strategy::Change;

use super::*;
use crate::engine::{Admit, Operation};

/// Labels what is made, refuses what is labelled `no`, and remembers what it was asked.
#[derive(Default)]
struct Plugin(Mutex<Vec<String>>);

impl Admit for Plugin {
    fn admit(&self, change: &Change<'_>, operation: Operation<'_>) -> Result<(), ApiError> {
        let (word, object): (_, &Value) = match operation {
            Operation::Create(object) => {
                if change.subresource.is_empty() {
                    object["metadata"]["labels"]["seen"] = json!("yes");
                }
                ("create", object)
            }
            Operation::Update { new, old } => {
                assert_eq!(new["metadata"]["name"], old["metadata"]["name"]);
                ("update", new)
            }
            Operation::Delete(object) => ("delete", object),
        };
        let asked = format!("{word} {} {}", change.resource.plural, change.subresource);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(asked.trim_end().to_owned());
        if object["metadata"]["labels"]["no"].is_string() {
            return Err(status::forbidden(change.resource, change.name, "no"));
        }
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_a_say_is_asked_about_each_write() {
    let plugin = Arc::new(Plugin::default());
    let mut server = Server::new().await;
    server.api = Api::new(ApiOptions {
        store: server.api.store().clone(),
        now: clock(),
        settings: Settings { service_network: ([10, 96, 0, 0].into(), 16), root_ca: String::new() },
        random: seeded(1),
        serve_on_request: BTreeSet::new(),
        node: None,
        reviews: Arc::new(NoReviews),
        authorize: Arc::new(AllowAll),
        admit: plugin.clone(),
        stopping: CancellationToken::new(),
    });
    let maps = "/api/v1/namespaces/default/configmaps";
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let refused = json!({"metadata": {"name": "no", "labels": {"no": ""}}});
    for (line, body, code, expected, asked) in [
        (
            format!("POST {maps}"),
            json!({"metadata": {"name": "m"}}),
            201,
            json!({"metadata": {"labels": {"seen": "yes"}}}),
            "create configmaps",
        ),
        (format!("GET {maps}/m"), Value::Null, 200, json!({"metadata": {"name": "m"}}), ""),
        (
            format!("POST {maps}"),
            refused,
            403,
            json!({"message": "configmaps is forbidden: no"}),
            "create configmaps",
        ),
        (
            format!("PATCH {maps}/m merge"),
            json!({"metadata": {"labels": {"no": ""}}}),
            403,
            json!({"reason": "Forbidden"}),
            "update configmaps",
        ),
        (format!("DELETE {maps}/m"), Value::Null, 200, json!({}), "delete configmaps"),
        (format!("POST {pods}"), pod, 201, json!({}), "create pods"),
        (format!("POST {pods}/p/binding"), binding, 201, json!({}), "create pods binding"),
        (
            format!("PATCH {pods}/p/status merge"),
            json!({"status": {"phase": "Running"}}),
            200,
            json!({}),
            "update pods status",
        ),
        (
            format!("POST {pods}/p/eviction"),
            json!({"metadata": {"name": "p"}}),
            201,
            json!({}),
            "create pods eviction, delete pods eviction",
        ),
    ] {
        server.check(&line, body, code, expected).await;
        let said = std::mem::take(&mut *plugin.0.lock().unwrap_or_else(PoisonError::into_inner));
        assert_eq!(said.join(", "), asked, "{line}");
    }
}
