//! The layer that lets only callers with a valid access token through.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use tonic::Status;
use tower::{Layer, Service};
use valise_proto::{Reason, Refusal};

use crate::claims::{MAX_TOKEN_BYTES, VerifiedToken};
use crate::verifier::Verifier;

/// Puts [`TokenService`] in front of gRPC services.
#[derive(Clone, Debug)]
pub struct TokenLayer {
    verifier: Verifier,
    open_paths: &'static [&'static str],
}

impl TokenLayer {
    /// Every call needs a valid token, but those of the open paths: `/package.Service/Method` is one method, and
    /// `/package.Service/` (with the slash at its end) all methods of a service.
    pub fn new(verifier: Verifier, open_paths: &'static [&'static str]) -> Self {
        Self { verifier, open_paths }
    }
}

impl<S> Layer<S> for TokenLayer {
    type Service = TokenService<S>;

    fn layer(&self, inner: S) -> TokenService<S> {
        TokenService {
            inner,
            layer: Arc::new(self.clone()),
        }
    }
}

/// Looks for `authorization: Bearer <token>` and answers a call without a valid one with a gRPC status. A call that it
/// lets through has [`Caller`](crate::Caller) and [`VerifiedToken`] among its extensions.
#[derive(Clone, Debug)]
pub struct TokenService<S> {
    inner: S,
    layer: Arc<TokenLayer>,
}

impl<S, B, R> Service<Request<B>> for TokenService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<R>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // Whoever prints the request after this prints no token.
        if let http::header::Entry::Occupied(mut entry) = request.headers_mut().entry(AUTHORIZATION) {
            entry.iter_mut().for_each(|value| value.set_sensitive(true));
        }
        if self.layer.is_open(request.uri().path()) {
            return Either::Left(self.inner.call(request));
        }
        match self.layer.judge(request.headers()) {
            Ok(token) => {
                request.extensions_mut().insert(token.caller.clone());
                request.extensions_mut().insert(token);
                Either::Left(self.inner.call(request))
            }
            Err(refusal) => {
                tracing::debug!(reason = %refusal.reason, "call refused by its token");
                Either::Right(ready(Ok(Status::from(refusal).into_http())))
            }
        }
    }
}

impl TokenLayer {
    fn is_open(&self, path: &str) -> bool {
        self.open_paths
            .iter()
            .any(|open| path == *open || (open.ends_with('/') && path.starts_with(open)))
    }

    fn judge(&self, headers: &HeaderMap) -> Result<VerifiedToken, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        // Two of them: which one would the next hop believe?
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Reason::TokenInvalid.into());
        };
        if value.len() > MAX_TOKEN_BYTES + "Bearer ".len() {
            return Err(Reason::TokenInvalid.into());
        }
        let token = value
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token);
        self.verifier.verify(token.ok_or(Reason::TokenInvalid)?)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tonic::body::Body;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::Caller;
    use crate::verifier::tests::{Scene, alice};

    const OPEN: &[&str] = &["/a.Service/Open", "/grpc.health.v1.Health/"];

    /// What the inner service saw, or why the call did not reach it.
    async fn call(scene: &Scene, path: &str, headers: &[String]) -> Result<Option<Caller>, Reason> {
        let inner = service_fn(|request: Request<()>| async move {
            let mut response = Response::new(Body::default());
            let shown = format!("{:?}", request.headers());
            assert!(!shown.contains("earer"), "no token in a debug output");
            if let Some(caller) = request.extensions().get::<Caller>() {
                response.extensions_mut().insert(caller.clone());
            }
            Ok::<_, Infallible>(response)
        });
        let service = TokenLayer::new(scene.verifier.clone(), OPEN).layer(inner);
        let mut request = Request::builder().uri(format!("http://localhost{path}"));
        for value in headers {
            request = request.header(AUTHORIZATION, value);
        }
        let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
        match Status::from_header_map(response.headers()) {
            Some(status) => Err(Refusal::from_status(&status).unwrap().reason),
            None => Ok(response.extensions().get::<Caller>().cloned()),
        }
    }

    #[tokio::test]
    async fn only_calls_with_one_valid_token_pass() {
        let scene = Scene::new();
        let token = scene.token(&alice());
        let path = "/a.Service/Closed";
        assert_eq!(
            call(&scene, path, &[format!("Bearer {token}")]).await,
            Ok(Some(alice()))
        );
        assert_eq!(
            call(&scene, path, &[format!("bearer {token}")]).await,
            Ok(Some(alice()))
        );
        let refused: [&[String]; 7] = [
            &[],
            &[String::new()],
            &["Bearer".into()],
            &["Bearer ".into()],
            &[format!("Basic {token}")],
            std::slice::from_ref(&token),
            &[format!("Bearer {token}"), format!("Bearer {token}")],
        ];
        for headers in refused {
            assert_eq!(call(&scene, path, headers).await, Err(Reason::TokenInvalid));
        }
    }

    #[tokio::test]
    async fn open_paths_need_none_and_are_not_wider_than_said() {
        let scene = Scene::new();
        for path in [
            "/a.Service/Open",
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
        ] {
            assert_eq!(call(&scene, path, &[]).await, Ok(None), "{path}");
        }
        for path in [
            "/a.Service/OpenToo",
            "/a.Service/Open/",
            "/a.Service/",
            "/grpc.health.v1.Healthy/Check",
            "/",
        ] {
            assert_eq!(call(&scene, path, &[]).await, Err(Reason::TokenInvalid), "{path}");
        }
    }
}
