//! Every answer of the API that is not what was asked for, in one format.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Serialize;

use crate::registry::RegistryError;

/// Where a reader finds what each path takes and gives.
const INFO: &str = "/openapi.json";

/// What a text of the request may take of an answer.
const QUOTED: usize = 200;

/// A refusal: `{"error":"<area>/<name>","message":"…","info":"…"}`.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    error: &'static str,
    message: Cow<'static, str>,
    pub(super) header: Option<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'a str,
    message: &'a str,
    info: &'a str,
}

impl ApiError {
    fn new(
        status: StatusCode,
        error: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> ApiError {
        ApiError { status, error, message: message.into(), header: None }
    }

    fn with(mut self, name: HeaderName, value: impl Into<HeaderValue>) -> ApiError {
        self.header = Some((name, value.into()));
        self
    }

    /// The same, and what had been done by then.
    pub fn after(mut self, done: String) -> ApiError {
        self.message = format!("{} {done}", self.message).into();
        self
    }

    #[cfg(test)]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the caller is told.
    #[cfg(test)]
    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "general/badRequest", message)
    }

    /// The secret was wrong, or none was there.
    pub fn unauthorized(message: &'static str) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "security/unauthorized", message)
            .with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"portcullis\""))
    }

    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "security/forbidden", message)
    }

    pub fn misdirected(message: &'static str) -> ApiError {
        ApiError::new(StatusCode::MISDIRECTED_REQUEST, "general/misdirectedRequest", message)
    }

    pub fn not_found(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "general/notFound", message)
    }

    /// A tenant that is not there, or that the caller does not see: one answer for both.
    pub fn no_such_tenant() -> ApiError {
        ApiError::not_found("There is no such tenant.")
    }

    /// The router adds `Allow`.
    pub fn method_not_allowed() -> ApiError {
        let message = "The method is not allowed here; the header Allow names those that are.";
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "general/methodNotAllowed", message)
    }

    pub fn timeout(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "general/timeout", message)
    }

    pub fn conflict(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, "general/conflict", message)
    }

    pub fn too_large(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "general/tooLarge", message)
    }

    pub fn unsupported_media_type(message: &'static str) -> ApiError {
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "general/unsupportedMediaType", message)
    }

    /// Well-formed, and still not acceptable.
    pub fn unprocessable(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "general/unprocessable", message)
    }

    /// `seconds`: when it is worth another try.
    pub fn too_many(seconds: u32, message: &'static str) -> ApiError {
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, "general/tooManyRequests", message)
            .with(RETRY_AFTER, seconds)
    }

    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "general/unavailable", message)
            .with(RETRY_AFTER, 5)
    }

    pub fn internal(message: &'static str) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "general/internal", message)
    }
}

/// The store's own words are for the log.
impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> ApiError {
        if let RegistryError::Unfit(reason) = error {
            return ApiError::unprocessable(format!("Not stored: {reason}."));
        }
        if let RegistryError::Busy { .. } = error {
            return ApiError::unavailable(
                "Too many questions wait for the registry; ask again in a moment.",
            );
        }
        tracing::error!(target: "portcullis::admin", %error, "the registry did not do as asked");
        ApiError::unavailable(
            "The registry cannot be used now. The change may still come to pass; to ask again is \
             safe.",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Body { error: self.error, message: &self.message, info: INFO };
        let text = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(text.into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        response
    }
}

/// A text of the request, cut to what an answer may repeat of it.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
