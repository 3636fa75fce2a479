//! The types of `metrics.k8s.io`, which `k8s-openapi` does not have: what node and pods use, as metrics-server says it.

use crate::facts::Empty;
use crate::model::{Body, Definition, Definitions, Field, Shape, field};

/// The version whose types these are.
pub const API_VERSION: &str = "metrics.k8s.io/v1beta1";

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// The full name of the type of a kind of this version.
pub fn name_of(kind: &str) -> String {
    format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{kind}")
}

fn named(name: String) -> Shape {
    Shape::Named(name)
}

fn usage() -> Field {
    let amount = named("io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned());
    let says = "CPU in cores over the window, and the memory of the working set in bytes.";
    field("usage", says, Shape::Map(Box::new(amount)), true, Empty::Written)
}

fn object(description: &str, own: Field) -> Definition {
    let text = |name: &str, description: &str| field(name, description, Shape::String, false, Empty::Dropped);
    let mut fields = vec![
        text("apiVersion", "The group and version of this object."),
        text("kind", "The kind of this object."),
        field(
            "metadata",
            "Name and labels of what was measured.",
            named(format!("{META}ObjectMeta")),
            false,
            Empty::Written,
        ),
        field(
            "timestamp",
            "When it was measured: the end of the window.",
            named(format!("{META}Time")),
            true,
            Empty::Written,
        ),
        field(
            "window",
            "The time over which the use of CPU was measured, as in 15s.",
            Shape::String,
            true,
            Empty::Written,
        ),
        own,
    ];
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Definition {
        description: description.to_owned(),
        body: Body::Struct(fields),
        atomic: false,
        kinds: Vec::new(),
    }
}

/// The definitions, by full name.
pub fn definitions() -> Definitions {
    let containers = field(
        "containers",
        "The use of each container that runs.",
        Shape::List(Box::new(named(name_of("ContainerMetrics")))),
        true,
        Empty::Written,
    );
    let name = field("name", "The container's name in its pod.", Shape::String, true, Empty::Written);
    let container = Definition {
        description: "What a container uses.".to_owned(),
        body: Body::Struct(vec![name, usage()]),
        atomic: false,
        kinds: Vec::new(),
    };
    Definitions::from([
        (name_of("ContainerMetrics"), container),
        (name_of("NodeMetrics"), object("What a node uses.", usage())),
        (name_of("PodMetrics"), object("What the containers of a pod use.", containers)),
    ])
}
