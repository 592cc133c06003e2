//! Requests and answers: what stands in their heads, and a body of whatever kind.
//!
//! As in `http`, but with [`Fields`]. What else belongs to one on its way is in its extensions.

use http::{Extensions, Method, StatusCode, Uri, Version};

use super::fields::Fields;

/// A request.
#[derive(Debug)]
pub struct Request<B> {
    head: request::Parts,
    body: B,
}

/// The answer to one.
#[derive(Debug)]
pub struct Response<B> {
    head: response::Parts,
    body: B,
}

/// The head of a request.
pub mod request {
    use super::{Extensions, Fields, Method, Uri, Version};

    /// What stands in it.
    #[derive(Debug, Clone, Default)]
    pub struct Parts {
        /// What is to be done.
        pub method: Method,
        /// With what.
        pub uri: Uri,
        /// By which protocol it is asked.
        pub version: Version,
        /// Its fields.
        pub headers: Fields,
        /// What else belongs to it.
        pub extensions: Extensions,
    }
}

/// The head of an answer.
pub mod response {
    use super::{Extensions, Fields, StatusCode, Version};

    /// What stands in it.
    #[derive(Debug, Clone, Default)]
    pub struct Parts {
        /// What has come of it.
        pub status: StatusCode,
        /// By which protocol it is said.
        pub version: Version,
        /// Its fields.
        pub headers: Fields,
        /// What else belongs to it.
        pub extensions: Extensions,
    }
}

impl<B> Request<B> {
    /// One without fields.
    pub fn new(body: B) -> Self {
        Self { head: request::Parts::default(), body }
    }

    /// One of these parts.
    pub fn from_parts(head: request::Parts, body: B) -> Self {
        Self { head, body }
    }

    /// Its parts.
    pub fn into_parts(self) -> (request::Parts, B) {
        (self.head, self.body)
    }

    /// The same with another body.
    pub fn map<C>(self, f: impl FnOnce(B) -> C) -> Request<C> {
        Request { head: self.head, body: f(self.body) }
    }

    /// What is to be done.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// The same, to be changed.
    pub fn method_mut(&mut self) -> &mut Method {
        &mut self.head.method
    }

    /// With what.
    pub fn uri(&self) -> &Uri {
        &self.head.uri
    }

    /// The same, to be changed.
    pub fn uri_mut(&mut self) -> &mut Uri {
        &mut self.head.uri
    }

    /// By which protocol.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// The same, to be changed.
    pub fn version_mut(&mut self) -> &mut Version {
        &mut self.head.version
    }

    /// Its fields.
    pub fn headers(&self) -> &Fields {
        &self.head.headers
    }

    /// The same, to be changed.
    pub fn headers_mut(&mut self) -> &mut Fields {
        &mut self.head.headers
    }

    /// What else belongs to it.
    pub fn extensions(&self) -> &Extensions {
        &self.head.extensions
    }

    /// The same, to be changed.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.head.extensions
    }

    /// Its body.
    pub fn body(&self) -> &B {
        &self.body
    }

    /// The same, to be changed.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// Nothing but that.
    pub fn into_body(self) -> B {
        self.body
    }
}

impl<B> Response<B> {
    /// One without fields.
    pub fn new(body: B) -> Self {
        Self { head: response::Parts::default(), body }
    }

    /// One of these parts.
    pub fn from_parts(head: response::Parts, body: B) -> Self {
        Self { head, body }
    }

    /// Its parts.
    pub fn into_parts(self) -> (response::Parts, B) {
        (self.head, self.body)
    }

    /// The same with another body.
    pub fn map<C>(self, f: impl FnOnce(B) -> C) -> Response<C> {
        Response { head: self.head, body: f(self.body) }
    }

    /// What has come of it.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The same, to be changed.
    pub fn status_mut(&mut self) -> &mut StatusCode {
        &mut self.head.status
    }

    /// By which protocol.
    pub fn version(&self) -> Version {
        self.head.version
    }

    /// The same, to be changed.
    pub fn version_mut(&mut self) -> &mut Version {
        &mut self.head.version
    }

    /// Its fields.
    pub fn headers(&self) -> &Fields {
        &self.head.headers
    }

    /// The same, to be changed.
    pub fn headers_mut(&mut self) -> &mut Fields {
        &mut self.head.headers
    }

    /// What else belongs to it.
    pub fn extensions(&self) -> &Extensions {
        &self.head.extensions
    }

    /// The same, to be changed.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.head.extensions
    }

    /// Its body.
    pub fn body(&self) -> &B {
        &self.body
    }

    /// The same, to be changed.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// Nothing but that.
    pub fn into_body(self) -> B {
        self.body
    }
}

/// What came by HTTP/2.
impl<B> From<http::Request<B>> for Request<B> {
    fn from(request: http::Request<B>) -> Self {
        let (http::request::Parts { method, uri, version, headers, extensions, .. }, body) = request.into_parts();
        Self { head: request::Parts { method, uri, version, headers: (&headers).into(), extensions }, body }
    }
}

/// What came by HTTP/2.
impl<B> From<http::Response<B>> for Response<B> {
    fn from(response: http::Response<B>) -> Self {
        let (http::response::Parts { status, version, headers, extensions, .. }, body) = response.into_parts();
        Self { head: response::Parts { status, version, headers: (&headers).into(), extensions }, body }
    }
}

/// What HTTP/2 is given.
impl<B> From<Response<B>> for http::Response<B> {
    fn from(response: Response<B>) -> Self {
        let (response::Parts { status, version, headers, extensions }, body) = response.into_parts();
        let mut given = Self::new(body);
        (*given.status_mut(), *given.version_mut()) = (status, version);
        (*given.headers_mut(), *given.extensions_mut()) = (headers.into(), extensions);
        given
    }
}
