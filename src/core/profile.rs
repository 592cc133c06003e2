//! What kind of service a route leads to, and what is particular to it.
//!
//! A profile is a name for the values of some keys, and nothing else: whatever it sets can be set without it, and what stands
//! beside it wins. It always sets the same keys ([`Profile::apply`]), so that a route's profile leaves nothing of another.

use http::{Method, StatusCode};

use super::policy::{Comparison, Policy, QueryRule};

/// A kind of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Node's Express and what is made with it, such as json-server.
    Express,
    /// HL7 FHIR, R4 and later.
    Fhir,
    /// OData 4, and 2 and 3 as far as MERGE goes.
    Odata,
    /// SCIM 2 (RFC 7644).
    Scim,
    /// WebDAV (RFC 4918), CalDAV and CardDAV.
    Webdav,
    /// Amazon's S3 and what speaks its protocol.
    S3,
}

/// What is particular to the service, beside what every route has rules for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What the operator called it.
    pub profile: Option<Profile>,
    /// The methods that change nothing, beside those of RFC 9110 §9.2.1.
    pub safe_methods: Vec<Method>,
    /// Whether WebDAV's `If` (RFC 4918 §10.4) is a precondition.
    pub if_header: bool,
    /// Whether the tag of a write's answer is the new state's. Some frameworks tag every answer, by what it says itself.
    pub trust_write_tags: bool,
    /// What stands in the body of the gateway's own answers.
    pub conflict_body: ConflictBody,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            profile: None,
            safe_methods: Vec::new(),
            if_header: false,
            trust_write_tags: true,
            conflict_body: ConflictBody::Problem,
        }
    }
}

/// What stands in the body of the gateway's own answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictBody {
    /// Problem details (RFC 9457).
    Problem,
    /// The sentence for a person, as the only member of a JSON object.
    Simple,
}

/// The parts of an S3 object that have a state of their own, by the parameter that names them. What is not here names the
/// object: `x-id`, which SDKs add, the parameters of a signature, and those by which an upload in parts begins and ends.
const S3_PARTS: [&str; 8] =
    ["acl", "attributes", "legal-hold", "partNumber", "retention", "tagging", "torrent", "versionId"];
/// The methods that only ask (RFC 4918 §9.1, RFC 3253 §3.6, RFC 5323 §2).
const WEBDAV_READS: [&str; 3] = ["PROPFIND", "REPORT", "SEARCH"];
/// The methods that write by WebDAV and its extensions (RFC 3253, 3744, 4791, 5842), apart from those of locks, which carry
/// no precondition of the resource's state.
const WEBDAV_METHODS: [&str; 12] =
    ["PUT", "PATCH", "DELETE", "PROPPATCH", "MKCOL", "COPY", "MOVE", "ACL", "MKCALENDAR", "BIND", "UNBIND", "REBIND"];

impl Profile {
    /// All of them, with their names in the file.
    pub const ALL: [(&'static str, Self); 6] = [
        ("express", Self::Express),
        ("fhir", Self::Fhir),
        ("odata", Self::Odata),
        ("scim", Self::Scim),
        ("webdav", Self::Webdav),
        ("s3", Self::S3),
    ];

    /// Its name in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    /// These rules with what such a service needs; `None`: with what is the default.
    #[must_use]
    pub fn apply(profile: Option<Self>, policy: Policy) -> Policy {
        let service = Service {
            profile,
            safe_methods: if profile == Some(Self::Webdav) { named(&WEBDAV_READS) } else { Vec::new() },
            if_header: profile == Some(Self::Webdav),
            trust_write_tags: profile != Some(Self::Express),
            ..policy.service
        };
        let common = Policy::default();
        let (comparison, conflict_status) = match profile {
            None => (common.comparison, common.conflict_status),
            Some(Self::Express) => (Comparison::Weak, StatusCode::CONFLICT),
            Some(Self::Fhir | Self::Odata | Self::Scim) => (Comparison::Weak, StatusCode::PRECONDITION_FAILED),
            Some(Self::Webdav | Self::S3) => (Comparison::Strong, StatusCode::PRECONDITION_FAILED),
        };
        let methods = match profile {
            None | Some(Self::Express | Self::Fhir | Self::Scim | Self::S3) => common.methods,
            Some(Self::Odata) => named(&["PUT", "PATCH", "DELETE", "MERGE"]),
            Some(Self::Webdav) => named(&WEBDAV_METHODS),
        };
        let query = match profile {
            None | Some(Self::Express | Self::Webdav) => common.query,
            // How much of a resource is shown, and in which form, does not make it another.
            Some(Self::Fhir | Self::Odata | Self::Scim) => QueryRule::Ignore,
            Some(Self::S3) => QueryRule::Only(S3_PARTS.map(str::to_owned).to_vec()),
        };
        Policy { comparison, conflict_status, methods, query, service, ..policy }
    }
}

fn named(methods: &[&str]) -> Vec<Method> {
    methods.iter().map(|name| Method::from_bytes(name.as_bytes()).expect("a token")).collect()
}
