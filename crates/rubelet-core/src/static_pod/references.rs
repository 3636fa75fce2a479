//! References to API objects, which static pods may not have.
//!
//! Owns the list of upstream's `HasAPIObjectReference` (feature PreventStaticPodAPIReferences); unlike upstream
//! it reports all of them, each with its field.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, ProjectedVolumeSource, Volume};

use crate::validation::{Errors, FieldError, Path};

/// Every field of a static pod that refers to an object of the API.
pub(super) fn api_references(pod: &Pod) -> Vec<FieldError> {
    let mut found = Found { errors: Errors::default() };
    if let Some(spec) = &pod.spec {
        found.spec(spec, &Path::new("spec"));
    }
    found.errors.0
}

struct Found {
    errors: Errors,
}

impl Found {
    fn refers(&mut self, path: &Path, what: &str) {
        self.errors.forbidden(path, &format!("static pods may not reference {what}"));
    }

    fn named(&mut self, path: &Path, name: Option<&str>, what: &str) {
        if name.is_some_and(|name| !name.is_empty()) {
            self.refers(path, what);
        }
    }

    fn spec(&mut self, spec: &PodSpec, path: &Path) {
        self.named(
            &path.child("serviceAccountName"),
            spec.service_account_name.as_deref(),
            "serviceaccounts",
        );
        for (index, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
            self.named(&path.child("imagePullSecrets").index(index), Some(&secret.name), "secrets");
        }
        let containers = spec.init_containers.iter().flatten().map(|c| (&c.env, &c.env_from));
        self.containers(containers, &path.child("initContainers"));
        self.containers(spec.containers.iter().map(|c| (&c.env, &c.env_from)), &path.child("containers"));
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (&c.env, &c.env_from));
        self.containers(ephemeral, &path.child("ephemeralContainers"));
        if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
            self.refers(&path.child("resourceClaims"), "resourceclaims");
        }
        for (index, volume) in spec.volumes.iter().flatten().enumerate() {
            self.volume(volume, &path.child("volumes").index(index));
        }
    }

    fn containers<'a>(
        &mut self,
        containers: impl Iterator<Item = (&'a Option<Vec<EnvVar>>, &'a Option<Vec<EnvFromSource>>)>,
        path: &Path,
    ) {
        for (index, (env, env_from)) in containers.enumerate() {
            let path = path.index(index);
            for (index, source) in env_from.iter().flatten().enumerate() {
                let path = path.child("envFrom").index(index);
                let secret = source.secret_ref.as_ref().map(|secret| secret.name.as_str());
                self.named(&path.child("secretRef"), secret, "secrets");
                let config_map = source.config_map_ref.as_ref().map(|config_map| config_map.name.as_str());
                self.named(&path.child("configMapRef"), config_map, "configmaps");
            }
            for (index, variable) in env.iter().flatten().enumerate() {
                let Some(source) = &variable.value_from else { continue };
                let path = path.child("env").index(index).child("valueFrom");
                let secret = source.secret_key_ref.as_ref().map(|secret| secret.name.as_str());
                self.named(&path.child("secretKeyRef"), secret, "secrets");
                let config_map =
                    source.config_map_key_ref.as_ref().map(|config_map| config_map.name.as_str());
                self.named(&path.child("configMapKeyRef"), config_map, "configmaps");
            }
        }
    }

    fn volume(&mut self, volume: &Volume, path: &Path) {
        let kinds = [
            (volume.config_map.is_some(), "configMap", "configmaps (via configmap volumes)"),
            (volume.secret.is_some(), "secret", "secrets (via secret volumes)"),
            (volume.csi.is_some(), "csi", "csidrivers (via CSI volumes)"),
            (volume.glusterfs.is_some(), "glusterfs", "endpoints (via glusterFS volumes)"),
            (volume.persistent_volume_claim.is_some(), "persistentVolumeClaim", "persistentvolumeclaims"),
            (volume.ephemeral.is_some(), "ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
            (volume.azure_file.is_some(), "azureFile", "secrets (via azureFile volumes)"),
        ];
        for (_, kind, what) in kinds.into_iter().filter(|(present, ..)| *present) {
            self.refers(&path.child(kind), what);
        }
        let secrets = [
            ("cephfs", volume.cephfs.as_ref().and_then(|source| source.secret_ref.as_ref())),
            ("cinder", volume.cinder.as_ref().and_then(|source| source.secret_ref.as_ref())),
            ("flexVolume", volume.flex_volume.as_ref().and_then(|source| source.secret_ref.as_ref())),
            ("rbd", volume.rbd.as_ref().and_then(|source| source.secret_ref.as_ref())),
            ("scaleIO", volume.scale_io.as_ref().map(|source| &source.secret_ref)),
            ("iscsi", volume.iscsi.as_ref().and_then(|source| source.secret_ref.as_ref())),
            ("storageos", volume.storageos.as_ref().and_then(|source| source.secret_ref.as_ref())),
        ];
        for (kind, secret) in secrets {
            let name = secret.map(|secret| secret.name.as_str());
            self.named(&path.child(kind).child("secretRef"), name, "secrets");
        }
        if let Some(projected) = &volume.projected {
            self.projected(projected, &path.child("projected"));
        }
    }

    fn projected(&mut self, projected: &ProjectedVolumeSource, path: &Path) {
        for (index, source) in projected.sources.iter().flatten().enumerate() {
            let path = path.child("sources").index(index);
            let kinds = [
                (source.config_map.is_some(), "configMap", "configmaps (via projected volumes)"),
                (source.secret.is_some(), "secret", "secrets (via projected volumes)"),
                (
                    source.service_account_token.is_some(),
                    "serviceAccountToken",
                    "serviceaccounts (via projected volumes)",
                ),
                (source.cluster_trust_bundle.is_some(), "clusterTrustBundle", "clustertrustbundles"),
                (source.pod_certificate.is_some(), "podCertificate", "podcertificates"),
            ];
            for (_, kind, what) in kinds.iter().filter(|(present, ..)| *present) {
                self.refers(&path.child(kind), what);
            }
            if source.downward_api.is_none() && kinds.iter().all(|(present, ..)| !present) {
                self.errors.forbidden(&path, "unknown source for projected volume");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(spec: Value, expected: &[(&str, &str)]) {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([]);
        }
        let pod: Pod =
            serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "spec": spec})).unwrap();
        let found: Vec<String> = api_references(&pod).iter().map(ToString::to_string).collect();
        let expected: Vec<String> = expected
            .iter()
            .map(|(field, what)| format!("{field}: Forbidden: static pods may not reference {what}"))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_way_to_name_an_object_is_found() {
        check(json!({"hostNetwork": true}), &[]);
        check(json!({"serviceAccountName": "a"}), &[("spec.serviceAccountName", "serviceaccounts")]);
        check(
            json!({"imagePullSecrets": [{"name": ""}, {"name": "a"}]}),
            &[("spec.imagePullSecrets[1]", "secrets")],
        );
        check(json!({"resourceClaims": [{"name": "a"}]}), &[("spec.resourceClaims", "resourceclaims")]);
        check(
            json!({"containers": [{"name": "a", "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
                {"name": "C", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ]}], "initContainers": [{"name": "b", "envFrom": [
                {"secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}, {"secretRef": {"name": ""}},
            ]}]}),
            &[
                ("spec.initContainers[0].envFrom[0].secretRef", "secrets"),
                ("spec.initContainers[0].envFrom[1].configMapRef", "configmaps"),
                ("spec.containers[0].env[0].valueFrom.secretKeyRef", "secrets"),
                ("spec.containers[0].env[1].valueFrom.configMapKeyRef", "configmaps"),
            ],
        );
        check(
            json!({"volumes": [
                {"name": "a", "configMap": {"name": "c"}},
                {"name": "b", "secret": {"secretName": "s"}},
                {"name": "c", "csi": {"driver": "d"}},
                {"name": "d", "glusterfs": {"endpoints": "e", "path": "/"}},
                {"name": "e", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "f", "ephemeral": {}},
                {"name": "g", "azureFile": {"secretName": "s", "shareName": "x"}},
                {"name": "h", "iscsi": {"targetPortal": "", "iqn": "", "lun": 0, "secretRef": {"name": "s"}}},
                {"name": "i", "hostPath": {"path": "/x"}},
                {"name": "j", "emptyDir": {}},
            ]}),
            &[
                ("spec.volumes[0].configMap", "configmaps (via configmap volumes)"),
                ("spec.volumes[1].secret", "secrets (via secret volumes)"),
                ("spec.volumes[2].csi", "csidrivers (via CSI volumes)"),
                ("spec.volumes[3].glusterfs", "endpoints (via glusterFS volumes)"),
                ("spec.volumes[4].persistentVolumeClaim", "persistentvolumeclaims"),
                ("spec.volumes[5].ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
                ("spec.volumes[6].azureFile", "secrets (via azureFile volumes)"),
                ("spec.volumes[7].iscsi.secretRef", "secrets"),
            ],
        );
        check(
            json!({"volumes": [{"name": "p", "projected": {"sources": [
                {"configMap": {"name": "c"}}, {"secret": {"name": "s"}}, {"serviceAccountToken": {"path": "t"}},
                {"clusterTrustBundle": {"path": "b"}}, {"podCertificate": {"keyType": "ED25519", "signerName": "s"}},
                {"downwardAPI": {}},
            ]}}]}),
            &[
                ("spec.volumes[0].projected.sources[0].configMap", "configmaps (via projected volumes)"),
                ("spec.volumes[0].projected.sources[1].secret", "secrets (via projected volumes)"),
                (
                    "spec.volumes[0].projected.sources[2].serviceAccountToken",
                    "serviceaccounts (via projected volumes)",
                ),
                ("spec.volumes[0].projected.sources[3].clusterTrustBundle", "clustertrustbundles"),
                ("spec.volumes[0].projected.sources[4].podCertificate", "podcertificates"),
            ],
        );
    }
}
