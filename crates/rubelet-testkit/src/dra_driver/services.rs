//! The driver's services as they are on the wire.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt as _, stream};
use rubelet_plugins::dra::wire::v1::{
    NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse,
};
use rubelet_plugins::dra::wire::{health, v1, v1beta1};
use rubelet_plugins::registration::v1 as registration;
use tonic::{Request, Response, Status};

use super::book::{Fault, Method, Shared};

/// One driver's services.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) shared: Arc<Shared>,
    pub(super) endpoint: PathBuf,
}

/// What the answer for one claim says.
enum Said {
    Done,
    Failed(String),
    Nothing,
    Invented,
}

impl Wire {
    /// Does a call, with the fault that it meets.
    async fn call<T>(
        &self,
        method: Method,
        version: &'static str,
        claims: &[v1::Claim],
        mut work: impl FnMut(&v1::Claim) -> T,
        mut answer: impl FnMut(&str, Option<T>, Said),
    ) -> Result<(), Status> {
        let struck = self.shared.note(method, version, claims);
        if let Some((Fault::Refuse(code), _)) = &struck {
            return Err(Status::new(*code, "as the test ordered"));
        }
        if let Some((Fault::Hang, handle)) = &struck {
            handle.stopped().await;
        }
        for claim in claims {
            let (done, said) = match struck.as_ref().map(|(fault, _)| fault) {
                Some(Fault::Fail(words)) => (None, Said::Failed(words.clone())),
                Some(Fault::DoThenFail(words)) => (Some(work(claim)), Said::Failed(words.clone())),
                Some(Fault::Forget) => (Some(work(claim)), Said::Nothing),
                Some(Fault::Invent) => (Some(work(claim)), Said::Invented),
                _ => (Some(work(claim)), Said::Done),
            };
            answer(&claim.uid, done, said);
        }
        if let Some((Fault::DoThenHang, handle)) = &struck {
            handle.stopped().await;
        }
        Ok(())
    }

    async fn prepare(
        &self,
        version: &'static str,
        request: NodePrepareResourcesRequest,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let mut response = NodePrepareResourcesResponse::default();
        let work = |claim: &v1::Claim| self.shared.prepare(claim);
        let mut say = |uid: String, devices: Option<Vec<v1::Device>>, error: String| {
            let devices = devices.unwrap_or_default();
            response.claims.insert(uid, NodePrepareResourceResponse { devices, error });
        };
        let answer = |uid: &str, devices, said| match said {
            Said::Done => say(uid.to_owned(), devices, String::new()),
            Said::Failed(words) => say(uid.to_owned(), None, words),
            Said::Nothing => {}
            Said::Invented => say(format!("not-{uid}"), devices, String::new()),
        };
        self.call(Method::Prepare, version, &request.claims, work, answer).await?;
        Ok(Response::new(response))
    }

    async fn unprepare(
        &self,
        version: &'static str,
        request: NodeUnprepareResourcesRequest,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let mut response = NodeUnprepareResourcesResponse::default();
        let work = |claim: &v1::Claim| self.shared.unprepare(claim);
        let mut say = |uid: String, error: String| {
            response.claims.insert(uid, NodeUnprepareResourceResponse { error });
        };
        let answer = |uid: &str, _done, said| match said {
            Said::Done => say(uid.to_owned(), String::new()),
            Said::Failed(words) => say(uid.to_owned(), words),
            Said::Nothing => {}
            Said::Invented => say(format!("not-{uid}"), String::new()),
        };
        self.call(Method::Unprepare, version, &request.claims, work, answer).await?;
        Ok(Response::new(response))
    }
}

#[tonic::async_trait]
impl v1::dra_plugin_server::DraPlugin for Wire {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        self.prepare("v1", request.into_inner()).await
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        self.unprepare("v1", request.into_inner()).await
    }
}

#[tonic::async_trait]
impl v1beta1::dra_plugin_server::DraPlugin for Wire {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        self.prepare("v1beta1", request.into_inner()).await
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        self.unprepare("v1beta1", request.into_inner()).await
    }
}

#[tonic::async_trait]
impl health::dra_resource_health_server::DraResourceHealth for Wire {
    type NodeWatchResourcesStream =
        Pin<Box<dyn Stream<Item = Result<health::NodeWatchResourcesResponse, Status>> + Send>>;

    async fn node_watch_resources(
        &self,
        _request: Request<health::NodeWatchResourcesRequest>,
    ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
        let mut told = self.shared.health.subscribe();
        // What was told before is told to everyone who comes.
        told.mark_changed();
        let reports = stream::unfold(told, async |mut told| {
            told.changed().await.ok()?;
            let report = told.borrow_and_update().clone();
            Some((report, told))
        });
        let reports = reports.filter_map(async |report| report.map(Ok));
        Ok(Response::new(Box::pin(reports)))
    }
}

#[tonic::async_trait]
impl registration::registration_server::Registration for Wire {
    async fn get_info(
        &self,
        _request: Request<registration::InfoRequest>,
    ) -> Result<Response<registration::PluginInfo>, Status> {
        let character = self.shared.character().clone();
        Ok(Response::new(registration::PluginInfo {
            r#type: "DRAPlugin".to_owned(),
            name: character.name,
            endpoint: self.endpoint.to_string_lossy().into_owned(),
            supported_versions: character.versions,
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<registration::RegistrationStatus>,
    ) -> Result<Response<registration::RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        let verdict = if status.plugin_registered { Ok(()) } else { Err(status.error) };
        self.shared.set_verdict(verdict);
        Ok(Response::new(registration::RegistrationStatusResponse {}))
    }
}
