//! `valise.directory.v1` over gRPC: converts, calls, maps.

use std::str::FromStr;
use std::sync::Arc;

use openmls::prelude::Ciphersuite;
use tonic::{Request, Response, Status};
use valise_access_token::Caller;
use valise_group_rules::is_allowed_suite;
use valise_proto::Refusal;
use valise_proto::directory::v1::key_package_directory_service_server::KeyPackageDirectoryService;
use valise_proto::directory::v1::{
    Claim as WireClaim, ClaimFailure, ClaimKeyPackagesRequest, ClaimKeyPackagesResponse,
    DeleteKeyPackagesRequest, DeleteKeyPackagesResponse, DeviceCipherSuites, FindCipherSuitesRequest,
    FindCipherSuitesResponse, GetStockRequest, GetStockResponse, PublishKeyPackagesRequest,
    PublishKeyPackagesResponse, Stock, claim,
};

use crate::claim::{Claim, Claimed, Failure, Package};
use crate::directory::Directory;
use crate::find_suites::DeviceSuites;
use crate::stock::StockStatus;

/// The most users and devices in one claim.
const MAX_TARGETS: usize = 256;

/// The directory's face.
pub(crate) struct Grpc(pub(crate) Arc<Directory>);

#[tonic::async_trait]
impl KeyPackageDirectoryService for Grpc {
    async fn publish_key_packages(
        &self,
        request: Request<PublishKeyPackagesRequest>,
    ) -> Result<Response<PublishKeyPackagesResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let (user, device) = caller.device()?;
        let stock = self
            .0
            .publish(user, device, request.into_inner().key_packages)
            .await?;
        Ok(Response::new(PublishKeyPackagesResponse {
            stock: wire_stock(stock),
        }))
    }

    async fn claim_key_packages(
        &self,
        request: Request<ClaimKeyPackagesRequest>,
    ) -> Result<Response<ClaimKeyPackagesResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let (user, device) = caller.device()?;
        let request = request.into_inner();
        let targets = request.user_ids.len() + request.device_ids.len();
        if targets == 0 {
            return Err(Refusal::malformed("user_ids").into());
        }
        if targets > MAX_TARGETS {
            return Err(Refusal::too_large("user_ids", MAX_TARGETS).into());
        }
        let claim = Claim {
            user,
            device,
            users: ids(&request.user_ids, "user_ids")?,
            devices: ids(&request.device_ids, "device_ids")?,
            suite: suite(request.cipher_suite)?,
        };
        let claims = self.0.claim(claim).await?.into_iter().map(wire_claim).collect();
        Ok(Response::new(ClaimKeyPackagesResponse { claims }))
    }

    async fn find_cipher_suites(
        &self,
        request: Request<FindCipherSuitesRequest>,
    ) -> Result<Response<FindCipherSuitesResponse>, Status> {
        let caller = Caller::of(&request)?.clone();
        let (user, device) = caller.device()?;
        let texts = request.into_inner().user_ids;
        if texts.is_empty() {
            return Err(Refusal::malformed("user_ids").into());
        }
        if texts.len() > MAX_TARGETS {
            return Err(Refusal::too_large("user_ids", MAX_TARGETS).into());
        }
        let users = ids(&texts, "user_ids")?;
        let found = self.0.find_suites(user, device, users).await?;
        Ok(Response::new(FindCipherSuitesResponse {
            devices: found.into_iter().map(wire_suites).collect(),
        }))
    }

    async fn get_stock(
        &self,
        request: Request<GetStockRequest>,
    ) -> Result<Response<GetStockResponse>, Status> {
        let (_, device) = Caller::of(&request)?.device()?;
        let stock = wire_stock(self.0.stock(device).await?);
        let packages = &self.0.packages;
        let response = GetStockResponse {
            stock,
            low_level: packages.low_level,
            capacity: packages.capacity,
            maximum_lifetime: prost_types::Duration::try_from(packages.maximum_lifetime).ok(),
        };
        Ok(Response::new(response))
    }

    async fn delete_key_packages(
        &self,
        request: Request<DeleteKeyPackagesRequest>,
    ) -> Result<Response<DeleteKeyPackagesResponse>, Status> {
        let (_, device) = Caller::of(&request)?.device()?;
        let deleted = self.0.delete(device).await?;
        Ok(Response::new(DeleteKeyPackagesResponse { deleted }))
    }
}

fn ids<T: FromStr>(texts: &[String], field: &str) -> Result<Vec<T>, Refusal> {
    texts
        .iter()
        .map(|text| text.parse().map_err(|_| Refusal::malformed(field)))
        .collect()
}

fn suite(number: u32) -> Result<u16, Refusal> {
    let known = u16::try_from(number)
        .ok()
        .and_then(|number| Ciphersuite::try_from(number).ok());
    known
        .filter(|&suite| is_allowed_suite(suite))
        .map(u16::from)
        .ok_or_else(|| Refusal::malformed("cipher_suite"))
}

fn wire_stock(stock: Vec<StockStatus>) -> Vec<Stock> {
    let line = |line: StockStatus| Stock {
        cipher_suite: u32::from(line.suite),
        one_time: line.one_time,
        last_resort: line.last_resort,
        first_unusable_at: line.first_unusable_at.map(|seconds| prost_types::Timestamp {
            seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
            nanos: 0,
        }),
        low: line.low,
    };
    stock.into_iter().map(line).collect()
}

fn wire_suites(found: DeviceSuites) -> DeviceCipherSuites {
    DeviceCipherSuites {
        user_id: found.user.into(),
        device_id: found.device.to_string(),
        cipher_suites: found.suites.into_iter().map(u32::from).collect(),
    }
}

fn wire_claim(claimed: Claimed) -> WireClaim {
    let (result, last_resort) = match claimed.result {
        Ok(Package { message, last_resort }) => (claim::Result::KeyPackage(message), last_resort),
        Err(failure) => (claim::Result::Failure(wire_failure(failure).into()), false),
    };
    WireClaim {
        user_id: claimed.user.map(String::from).unwrap_or_default(),
        device_id: claimed
            .device
            .map(|device| device.to_string())
            .unwrap_or_default(),
        last_resort,
        result: Some(result),
    }
}

fn wire_failure(failure: Failure) -> ClaimFailure {
    match failure {
        Failure::Unknown => ClaimFailure::UnknownUser,
        Failure::Exhausted => ClaimFailure::Exhausted,
        Failure::Revoked => ClaimFailure::DeviceRevoked,
        Failure::RateLimited => ClaimFailure::RateLimited,
    }
}
