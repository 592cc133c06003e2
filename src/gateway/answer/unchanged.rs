//! A 304 of the gateway's own, made of the answer that the client would get if it did not have it already.

use bytes::Bytes;
use http::{
    HeaderName, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LAST_MODIFIED, TRAILER},
};

use super::super::body::Answer;
use crate::core::message::{Response, response};

/// The fields that describe content, which a 304 has none of (RFC 9110 §15.4.5). All others stay: cookies and what allows
/// other origins are not about it.
const OF_CONTENT: [HeaderName; 10] = [
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    LAST_MODIFIED,
    TRAILER,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("repr-digest"),
];

/// The client has what an answer with this head would give it.
pub(in crate::gateway) fn not_modified(head: response::Parts) -> Response<Answer> {
    let mut response = Response::from_parts(head, Answer::own(Bytes::new()));
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    for name in OF_CONTENT {
        response.headers_mut().remove(name);
    }
    response
}
