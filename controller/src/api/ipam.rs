//! The service of the books on addresses.

use causeway_proto::v1;
use causeway_proto::v1::ipam_service_server::IpamService;
use tonic::{Request, Response, Status};

use super::App;
use super::caller::caller;
use super::status::Refusal;
use crate::history::By;
use crate::ipam::{Checked, Checker, Finding, Fix, Problem};
use crate::keys;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) App);

#[tonic::async_trait]
impl IpamService for Service {
    async fn check_ipam(
        &self,
        request: Request<v1::CheckIpamRequest>,
    ) -> Result<Response<v1::CheckIpamResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let by = caller(&metadata, &extensions);
        self.0.unary("IpamService/CheckIpam", &metadata, self.check(request, by)).await
    }
}

impl Service {
    async fn check(&self, request: v1::CheckIpamRequest, by: By) -> Result<v1::CheckIpamResponse, Refusal> {
        let checker = Checker::new(self.0.store.clone(), self.0.ports.clone(), by);
        let fix = Fix { books: request.fix, leaked: request.fix_leaked };
        let checked = checker.with_leaks(self.0.leaks.clone()).run(fix).await?;
        if let Some(at) = checked.changed {
            self.0.wrote(at);
        }
        Ok(message(checked))
    }
}

fn message(checked: Checked) -> v1::CheckIpamResponse {
    let Checked { findings, more, books, .. } = checked;
    let snapshot = &books.snapshot;
    let below =
        |prefix: &str| books.claims.iter().filter(|claim| claim.path.starts_with(prefix)).count() as u64;
    let released = snapshot.ports.values().filter(|port| port.value.released_ms.is_some()).count();
    let quarantined = snapshot.quarantined.len();
    v1::CheckIpamResponse {
        findings: findings
            .into_iter()
            .map(|(finding, repaired)| finding_message(finding, repaired))
            .collect(),
        more: more as u64,
        ports: snapshot.ports.len() as u64,
        addresses: below(keys::ADDRESS_CLAIMS),
        macs: below(keys::MAC_CLAIMS),
        released: released.saturating_sub(quarantined) as u64,
        quarantined: quarantined as u64,
        revision: snapshot.revision.0,
    }
}

fn finding_message(finding: Finding, repaired: bool) -> v1::IpamFinding {
    let problem = match finding.problem {
        Problem::ClaimWithoutOwner => v1::IpamProblem::ClaimWithoutOwner,
        Problem::OwnerWithoutClaim => v1::IpamProblem::OwnerWithoutClaim,
        Problem::Duplicate => v1::IpamProblem::Duplicate,
        Problem::OutsideSubnet => v1::IpamProblem::OutsideSubnet,
        Problem::Overdue => v1::IpamProblem::QuarantineOverdue,
        Problem::StrayBinding => v1::IpamProblem::StrayBinding,
        Problem::VipHolder => v1::IpamProblem::VipHolder,
        Problem::Leaked => v1::IpamProblem::Leaked,
        Problem::Unreadable => v1::IpamProblem::Unreadable,
    };
    v1::IpamFinding {
        problem: problem.into(),
        subject: finding.subject,
        text: finding.text,
        repair: finding.repair.map(|repair| repair.words).unwrap_or_default(),
        repaired,
        hint: finding.hint,
    }
}
