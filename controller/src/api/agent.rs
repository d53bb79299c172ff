//! The agent service: the stream itself is in [`crate::agents`].

use causeway_proto::v1;
use causeway_proto::v1::agent_service_server::AgentService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::App;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) App);

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = ReceiverStream<Result<v1::ControllerMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let receiver = self.0.agents.open(request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
