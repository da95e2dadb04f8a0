//! Every RPC of the contract, called with bytes as they are.

use prost::Message as _;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status};
use valise_proto::FILE_DESCRIPTOR_SET;
use valise_tests::service::Service;

/// All RPCs of the contract: path, and whether the client sends a stream.
pub(crate) fn contract() -> Vec<(String, bool)> {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut paths = Vec::new();
    for file in set
        .file
        .iter()
        .filter(|file| file.package().starts_with("valise."))
    {
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                paths.push((path, method.client_streaming()));
            }
        }
    }
    paths
}

/// Bytes as they are, in both directions.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(to, &item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let len = bytes::Buf::remaining(from);
        Ok(Some(bytes::Buf::copy_to_bytes(from, len).to_vec()))
    }
}

/// Calls with bytes, and reads the answer or the first message of a stream.
pub(crate) async fn call(
    service: &Service,
    path: &str,
    token: Option<&str>,
    body: Vec<u8>,
) -> Result<Vec<u8>, Status> {
    let mut grpc = Grpc::new(service.connect().await);
    grpc.ready().await.unwrap();
    let mut request = Request::new(tokio_stream::once(body));
    if let Some(token) = token {
        request
            .metadata_mut()
            .insert("authorization", token.parse().unwrap());
    }
    let answer = grpc.streaming(request, path.parse().unwrap(), Raw).await?;
    let mut answer = answer.into_inner();
    Ok(answer.message().await?.unwrap_or_default())
}
