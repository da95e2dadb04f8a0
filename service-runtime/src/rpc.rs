//! What the contract says of each RPC, by its path.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::names;

/// By path without its first slash, whether the RPC streams in either direction.
static RPCS: LazyLock<HashMap<String, bool>> = LazyLock::new(|| {
    [
        valise_proto::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ]
    .into_iter()
    .filter_map(|set| FileDescriptorSet::decode(set).ok())
    .flat_map(|set| set.file)
    .flat_map(|file| {
        let package = file.package().to_owned();
        file.service
            .into_iter()
            .map(move |service| (package.clone(), service))
    })
    .flat_map(|(package, service)| {
        let service_name = service.name().to_owned();
        service.method.into_iter().map(move |method| {
            let path = format!("{package}.{service_name}/{}", method.name());
            (path, method.client_streaming() || method.server_streaming())
        })
    })
    .collect()
});

/// The path as a name for spans and metrics: without its first slash.
pub(crate) fn name(path: &str) -> &'static str {
    find(path).map_or(names::UNKNOWN, |(name, _)| name)
}

/// Whether the RPC streams in either direction.
pub(crate) fn is_stream(path: &str) -> bool {
    find(path).is_some_and(|(_, is_stream)| is_stream)
}

fn find(path: &str) -> Option<(&'static str, bool)> {
    let (name, is_stream) = RPCS.get_key_value(path.strip_prefix('/')?)?;
    Some((name, *is_stream))
}

/// Whether the path belongs to health checks or reflection, which the runtime answers itself.
pub(crate) fn is_infrastructure(path: &str) -> bool {
    path.starts_with("/grpc.health.") || path.starts_with("/grpc.reflection.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contract_is_known() {
        let send = "/valise.delivery.v1.DeliveryService/SendMessage";
        assert_eq!(name(send), "valise.delivery.v1.DeliveryService/SendMessage");
        assert!(!is_stream(send));
        for stream in [
            "/valise.delivery.v1.DeliveryService/Subscribe",
            "/valise.authentication.v1.AuthenticationService/WatchRevocations",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(name(stream), &stream[1..]);
            assert!(is_stream(stream), "{stream}");
        }
        assert!(!is_stream("/grpc.health.v1.Health/Check"));
    }

    #[test]
    fn what_a_client_makes_up_is_no_name() {
        assert_eq!(
            name("/valise.delivery.v1.DeliveryService/alice@interieur.example"),
            names::UNKNOWN
        );
        assert_eq!(
            name("valise.delivery.v1.DeliveryService/SendMessage"),
            names::UNKNOWN
        );
    }
}
