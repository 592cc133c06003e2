//! What is said to a request that may have come before, or that would create what is there already.

use http::{StatusCode, header::LINK};

use super::{Problem, document::Object, reference};
use crate::core::{fields::Fields, idempotency::MalformedKey, value::FieldValue};

/// Why such a request is neither carried out nor answered again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repeat {
    /// Its `Idempotency-Key` can't be read.
    MalformedKey(MalformedKey),
    /// The first request with its key is still under way.
    Running,
    /// The first request with its key was another one.
    OtherPayload,
    /// Nobody knows what became of the first request with its key.
    InDoubt,
    /// The first request with its key was carried out, and its answer was too long to be remembered.
    NotKept {
        /// Its status.
        status: StatusCode,
        /// Where its result is, if it said so.
        location: Option<String>,
    },
    /// The value at this place is there already.
    Duplicate {
        /// The place in the body.
        field: String,
        /// The resource that has it, where it is known and the caller may know.
        existing: Option<String>,
    },
    /// The value at this place may be there: nobody knows what became of an earlier creation.
    DuplicateInDoubt {
        /// The place in the body.
        field: String,
    },
    /// Whether a value is there can't be told from the request's body.
    Unexaminable(Unexaminable),
    /// Whether a value is there can't be told from what the backend answers.
    LookupFailed(StatusCode),
}

/// Why the values of a body can't be examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unexaminable {
    /// It is longer than so many bytes.
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    /// It is not JSON, as its fields say.
    #[error("the body is not said to be JSON in UTF-8, without a content coding")]
    MediaType,
    /// It is not JSON, whatever its fields say.
    #[error("the body is not JSON")]
    Json,
    /// An object in it has two members of one name, of which a service may take either, or one that a service may take for
    /// the one that is looked for.
    #[error("an object in the body has two members of the same name, or one whose name is right but for its case")]
    Ambiguous,
    /// Where there should be an object or array on the way to a value, there is something else.
    #[error("the body is not of the form in which a value that must be unique can be found")]
    Form,
    /// A value has a number that not everybody reads alike.
    #[error("a number that must be unique has to be whole and below 2^53")]
    Number,
}

/// The members of the answer that are about this.
#[derive(Default)]
pub(super) struct Members<'a> {
    field: Option<&'a str>,
    existing: Option<&'a str>,
    original_status: Option<StatusCode>,
    location: Option<&'a str>,
}

impl Members<'_> {
    pub(super) fn write(&self, body: &mut Object) {
        if let Some(field) = self.field {
            body.text("field", field);
        }
        if let Some(existing) = self.existing {
            body.text("existing", existing);
        }
        if let Some(status) = &self.original_status {
            body.number("original_status", status.as_str());
        }
        if let Some(location) = self.location {
            body.text("location", location);
        }
    }
}

impl Repeat {
    /// `conflict_status` is the route's.
    pub(super) fn problem(&self) -> Problem {
        let (status, kind, title, error) = match self {
            Self::MalformedKey(why) => (
                StatusCode::BAD_REQUEST,
                "malformed-idempotency-key",
                "The Idempotency-Key can't be read",
                format!("{}. Send one key, in quotes.", capitalised(&why.to_string())).into(),
            ),
            Self::Running => (
                StatusCode::CONFLICT,
                "idempotency-running",
                "The same request is under way",
                "A request with this Idempotency-Key is still under way. Try again in a moment.".into(),
            ),
            Self::OtherPayload => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-mismatch",
                "The Idempotency-Key belongs to another request",
                "This Idempotency-Key was used for another request. Send a new one with a new request.".into(),
            ),
            Self::InDoubt => (
                StatusCode::CONFLICT,
                "idempotency-in-doubt",
                "The outcome is unknown",
                "The first request with this Idempotency-Key had no answer, and whether it was carried out is unknown. Find \
                 out, and send a new key if you want it to be carried out anew."
                    .into(),
            ),
            Self::NotKept { .. } => (
                StatusCode::CONFLICT,
                "idempotency-not-kept",
                "The answer is no longer there",
                "The first request with this Idempotency-Key was carried out, and its answer was too long to be kept. See \
                 original_status and location."
                    .into(),
            ),
            Self::Duplicate { field, .. } => (
                StatusCode::CONFLICT,
                "duplicate",
                "The resource exists",
                format!("Conflict: there is a resource with this value of {field} already.").into(),
            ),
            Self::DuplicateInDoubt { field } => (
                StatusCode::CONFLICT,
                "duplicate",
                "The resource may exist",
                format!("Conflict: an earlier attempt to create a resource with this value of {field} may have succeeded.").into(),
            ),
            Self::Unexaminable(why) => (
                why.status(),
                "unexaminable",
                "The body can't be examined",
                format!("{}. What is created here must have values that are new, so they have to be found.", capitalised(&why.to_string())).into(),
            ),
            Self::LookupFailed(status) => (
                StatusCode::CONFLICT,
                "unverifiable",
                "Whether the resource exists can't be learned",
                format!("Conflict: whether there is such a resource can't be learned; asked for it, the service answered {}. Try again later.", status.as_u16()).into(),
            ),
        };
        let is_bad = status != StatusCode::CONFLICT;
        let proxy_error = if is_bad { "http_request_error" } else { "http_request_denied" };
        Problem { status, kind, title, error, proxy_error }
    }

    /// Whether it may be otherwise in a moment.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Running | Self::LookupFailed(_))
    }

    pub(super) fn members(&self) -> Members<'_> {
        match self {
            Self::Duplicate { field, existing } => {
                Members { field: Some(field), existing: existing.as_deref(), ..Members::default() }
            }
            Self::DuplicateInDoubt { field } => Members { field: Some(field), ..Members::default() },
            Self::NotKept { status, location } => {
                Members { original_status: Some(*status), location: location.as_deref(), ..Members::default() }
            }
            Self::MalformedKey(_)
            | Self::Running
            | Self::OtherPayload
            | Self::InDoubt
            | Self::Unexaminable(_)
            | Self::LookupFailed(_) => Members::default(),
        }
    }

    /// Points to what is there, from the collection that it is in.
    pub(super) fn link(&self, collection: &str, fields: &mut Fields) {
        let members = self.members();
        if let Some(to) = members.existing.or(members.location) {
            let link = format!("<{}>; rel=\"item\"; anchor=\"{collection}\"", reference(to));
            fields.extend(FieldValue::try_from(link).ok().map(|link| (LINK, link)));
        }
    }
}

impl Unexaminable {
    fn status(self) -> StatusCode {
        match self {
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Json | Self::Ambiguous | Self::Form | Self::Number => StatusCode::BAD_REQUEST,
        }
    }
}

fn capitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
