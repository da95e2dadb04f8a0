//! The token layer decides who comes in, everywhere but at health checks and reflection.

use http::{Request, Response};
use tokio_stream::StreamExt;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tower::{ServiceExt, layer::layer_fn, service_fn};
use valise_proto::Reason;
use valise_proto::directory::v1::PublishKeyPackagesRequest;
use valise_service_runtime::{LIVENESS, MapErrors, ServerConfig};

use crate::server::{DIRECTORY, Server, reason_of, soon};

#[tokio::test]
async fn handlers_see_only_callers_that_the_layer_lets_through() {
    let layer = layer_fn(|routes: MapErrors<Routes>| {
        service_fn(move |request: Request<Body>| {
            let routes = routes.clone();
            async move {
                if request.headers().contains_key("authorization") {
                    routes.oneshot(request).await
                } else {
                    Ok::<Response<Body>, _>(Status::from(Reason::TokenInvalid).into_http())
                }
            }
        })
    });
    let server = Server::start_with(ServerConfig::default(), layer).await;
    let mut client = server.directory().await;
    let mut request = tonic::Request::new(PublishKeyPackagesRequest::default());
    let status = soon(client.publish_key_packages(PublishKeyPackagesRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(reason_of(&status), Reason::TokenInvalid);
    request
        .metadata_mut()
        .insert("authorization", "Bearer x".parse().unwrap());
    soon(client.publish_key_packages(request)).await.unwrap();

    let mut health = HealthClient::new(server.channel().await);
    soon(health.check(HealthCheckRequest {
        service: LIVENESS.to_owned(),
    }))
    .await
    .unwrap();
    assert!(reflected(&server).await.contains(&DIRECTORY.to_owned()));
    server.stop().await;
}

async fn reflected(server: &Server) -> Vec<String> {
    let mut client = ServerReflectionClient::new(server.channel().await);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = soon(client.server_reflection_info(tokio_stream::iter([list])))
        .await
        .unwrap()
        .into_inner();
    match soon(answers.next()).await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}
