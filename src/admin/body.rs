//! Bodies of requests: none is read without a bound on its size and on the time it may take.

use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, Multipart, Request};
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tokio::time::{Instant, timeout_at};

use super::error::{ApiError, quoted};

/// Most bodies.
pub const JSON_BYTES: usize = 1024 * 1024;
/// Many certificates at once.
pub const MANY_BYTES: usize = 4 * 1024 * 1024;
/// From the end of a request's header to the end of such a body.
const BODY_TIME: Duration = Duration::from_secs(30);
/// What a multipart body may hold in front of its file, and again behind it, give or take a
/// frame: boundaries, headers, other fields.
const FRAMING_BYTES: usize = 64 * 1024;

/// A JSON body, which is an object.
///
/// # Errors
/// 415 for another type, 413, 408, 400 with what is wrong and where.
pub async fn json<T: DeserializeOwned>(request: Request, limit: usize) -> Result<T, ApiError> {
    if !is_json(request.headers()) {
        return Err(ApiError::unsupported_media_type("Send `Content-Type: application/json`."));
    }
    decode(&whole(request.into_body(), limit).await?)
}

/// As [`json`]; a request without a body is `{}`.
pub async fn json_or_nothing<T: DeserializeOwned + Default>(
    request: Request,
    limit: usize,
) -> Result<T, ApiError> {
    let typed = is_json(request.headers());
    let body = whole(request.into_body(), limit).await?;
    match (body.is_empty(), typed) {
        (true, _) => Ok(T::default()),
        (false, true) => decode(&body),
        (false, false) => {
            Err(ApiError::unsupported_media_type("Send `Content-Type: application/json`."))
        }
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map(|Object(body)| body).map_err(|error| {
        ApiError::bad_request(format!(
            "The body is not the JSON expected here: {}.",
            quoted(&error.to_string())
        ))
    })
}

/// A JSON object. What serde derives for a struct takes a list of its fields' values as well: no
/// client sends that on purpose, and no name in it says what it does.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

struct Fields<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
    }
}

/// A list that is given up with its entry past `N`: an entry may take a hundred times the room of
/// its text, `{}`.
///
/// # Errors
/// How many there may be; what is wrong with an entry.
pub fn at_most<'de, const N: usize, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(AtMost::<N, T>(PhantomData))
}

struct AtMost<const N: usize, T>(PhantomData<T>);

impl<'de, const N: usize, T: Deserialize<'de>> Visitor<'de> for AtMost<N, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {N} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element()? {
            if list.len() == N {
                return Err(A::Error::custom(format!("the list has more than {N} entries")));
            }
            list.push(entry);
        }
        Ok(list)
    }
}

/// A body as one piece, of at most `limit` bytes.
///
/// # Errors
/// 413, 408, 400 where the connection breaks.
pub async fn whole(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut gathered = Gathered { bytes: BytesMut::new(), limit };
    let ends = Instant::now() + BODY_TIME;
    body_pieces(body, Times { idle: BODY_TIME, ends }, &mut gathered).await?;
    Ok(gathered.bytes.freeze())
}

/// A CSV file as one piece; see [`csv_pieces`].
///
/// # Errors
/// As [`csv_pieces`], and 413.
pub async fn whole_csv(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    let mut gathered = Gathered { bytes: BytesMut::new(), limit };
    csv_pieces(request, BODY_TIME, BODY_TIME, &mut gathered).await?;
    Ok(gathered.bytes.freeze())
}

struct Gathered {
    bytes: BytesMut,
    limit: usize,
}

impl Sink for Gathered {
    async fn piece(&mut self, piece: &[u8]) -> Result<(), ApiError> {
        if self.bytes.len() + piece.len() > self.limit {
            let limit = self.limit;
            return Err(ApiError::too_large(format!("The body has more than {limit} bytes.")));
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

/// Whether the body is JSON: `application/json` or `application/…+json`.
pub fn is_json(headers: &HeaderMap) -> bool {
    let kind = media_type(headers);
    let vendor = kind.strip_prefix("application/").is_some_and(|rest| rest.ends_with("+json"));
    kind == "application/json" || vendor
}

/// In lower case, without parameters; empty where there is none.
fn media_type(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Takes a body as it comes in.
pub trait Sink: Send {
    /// An error ends the reading.
    fn piece(&mut self, piece: &[u8]) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// The file is whole. What comes behind it may still be an error.
    fn end(&mut self) -> impl Future<Output = Result<(), ApiError>> + Send {
        std::future::ready(Ok(()))
    }
}

#[derive(Clone, Copy)]
struct Times {
    /// The longest wait for the next piece.
    idle: Duration,
    ends: Instant,
}

impl Times {
    async fn within<T>(self, next: impl Future<Output = T>) -> Result<T, ApiError> {
        let deadline = self.ends.min(Instant::now() + self.idle);
        timeout_at(deadline, next)
            .await
            .map_err(|_| ApiError::timeout("The body did not come in time."))
    }
}

/// Hands a CSV file on, piece by piece: the body itself for `text/csv`, the field `file` of
/// `multipart/form-data` (RFC 7578). `idle`: between two pieces; `total`: from now to the end,
/// the sink's own time included.
///
/// # Errors
/// 415 for any other type, 400 where there is no such field or the body breaks off, 408, and
/// the sink's own; 400, too, for a second such field, of which the sink has got nothing, after
/// the end of the first.
pub async fn csv_pieces<S: Sink>(
    request: Request,
    idle: Duration,
    total: Duration,
    sink: &mut S,
) -> Result<(), ApiError> {
    let times = Times { idle, ends: Instant::now() + total };
    match media_type(request.headers()).as_str() {
        "text/csv" => body_pieces(request.into_body(), times, sink).await,
        "multipart/form-data" => file_pieces(request, times, sink).await,
        _ => Err(ApiError::unsupported_media_type(
            "Send the CSV as `text/csv`, or as the field `file` of `multipart/form-data`.",
        )),
    }
}

async fn body_pieces<S: Sink>(mut body: Body, times: Times, sink: &mut S) -> Result<(), ApiError> {
    while let Some(frame) = times.within(body.frame()).await? {
        let frame = frame.map_err(|_| ApiError::bad_request("The body broke off."))?;
        if let Ok(piece) = frame.into_data() {
            sink.piece(&piece).await?;
        }
    }
    sink.end().await
}

async fn file_pieces<S: Sink>(
    request: Request,
    times: Times,
    sink: &mut S,
) -> Result<(), ApiError> {
    let unread = Arc::new(AtomicUsize::new(0));
    let broken = |_| match unread.load(Ordering::Acquire) > FRAMING_BYTES {
        true => ApiError::bad_request(FramingTooLarge.to_string()),
        false => ApiError::bad_request("The multipart body is not as RFC 7578 has it."),
    };
    let metered = unread.clone();
    let request = request.map(|body| Body::new(Metered { body, unread: metered, rest: false }));
    let mut parts = Multipart::from_request(request, &())
        .await
        .map_err(|_| ApiError::bad_request("The multipart body has no boundary."))?;
    let mut found = false;
    while let Some(mut field) = times.within(parts.next_field()).await?.map_err(broken)? {
        if field.name() != Some("file") {
            continue;
        }
        if found {
            return Err(ApiError::bad_request(
                "The multipart body has a second field `file`, which was not read: send one file \
                 with each request.",
            ));
        }
        found = true;
        while let Some(piece) = times.within(field.chunk()).await?.map_err(broken)? {
            unread.store(0, Ordering::Release);
            sink.piece(&piece).await?;
        }
        sink.end().await?;
    }
    if found {
        return Ok(());
    }
    Err(ApiError::bad_request("The multipart body has no field `file`."))
}

/// Keeps the multipart parser from gathering what it has no use for. It reads until its source
/// has nothing ready, and looks for a boundary in all of that: so there is never more than one
/// frame ready, and a stretch in which it finds nothing of the file has an end.
struct Metered {
    body: Body,
    /// Bytes since the last piece of the file.
    unread: Arc<AtomicUsize>,
    /// A frame was handed on: nothing is ready until the next poll.
    rest: bool,
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if std::mem::take(&mut self.rest) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.rest = true;
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            let before = self.unread.fetch_add(bytes, Ordering::AcqRel);
            if before > FRAMING_BYTES {
                return Poll::Ready(Some(Err(axum::Error::new(FramingTooLarge))));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("More than {FRAMING_BYTES} bytes of the multipart body are not of its file.")]
struct FramingTooLarge;
