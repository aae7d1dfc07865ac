//! As much of gRPC and protobuf as Linkerd's identity service needs.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use std::{convert::Infallible, fmt::Write as _};

/// Path of the one method (linkerd2-proxy-api, identity.proto).
pub(super) const CERTIFY: &str = "/io.linkerd.proxy.identity.Identity/Certify";

/// gRPC status codes that the stand-ins use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// An answer, with or without a message.
pub(super) type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A proxy's request for a certificate. The default, nothing in it, is what a probe sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertifyRequest {
    /// The name it wants to be certified for.
    pub identity: String,
    /// Its service account token.
    pub token: Vec<u8>,
    /// PKCS#10, DER.
    pub signing_request: Vec<u8>,
}

/// The certificate and until when it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifyResponse {
    /// X.509, DER.
    pub leaf: Vec<u8>,
    /// X.509, DER, from the leaf's issuer upwards.
    pub intermediates: Vec<Vec<u8>>,
    /// Seconds since 1970.
    pub valid_until: u64,
}

// === impl Answer ===

/// A status and no message: one HEADERS frame that ends the stream, as grpc-go sends it.
pub(super) fn trailers_only(status: StatusCode, code: Code, message: &str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()).boxed_unsync());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(code as u16));
    headers.insert("grpc-message", percent_encoded(message));
    answer
}

/// A message, then status 0 in the trailers.
pub(super) fn message(body: &[u8]) -> Answer {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("grpc-message", HeaderValue::from_static(""));
    let body = Full::new(frame(body)).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed_unsync();
    let mut answer = Response::new(body);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

/// Everything but printable ASCII and `%` itself as it is (gRPC over HTTP2, "Status-Message").
fn percent_encoded(message: &str) -> HeaderValue {
    let mut text = String::new();
    for byte in message.bytes() {
        if byte == b'%' || !(b' '..=b'~').contains(&byte) {
            // Writing to a string does not fail.
            let _ = write!(text, "%{byte:02X}");
        } else {
            text.push(char::from(byte));
        }
    }
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// One uncompressed message: a flag, a length, the bytes.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    // Ours are certificates: a few kilobytes.
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}

/// The message in a frame; `None` if it is cut short or compressed.
pub(super) fn unframe(mut body: Bytes) -> Option<Bytes> {
    if body.len() < 5 || body.get_u8() != 0 {
        return None;
    }
    let length = usize::try_from(body.get_u32()).ok()?;
    (body.len() >= length).then(|| body.split_to(length))
}

// === impl CertifyRequest ===

impl CertifyRequest {
    /// As protobuf.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, self.identity.as_bytes());
        put_bytes(&mut message, 2, &self.token);
        put_bytes(&mut message, 3, &self.signing_request);
        message
    }

    /// From protobuf; `None` if that is not what it is.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let mut request = Self::default();
        for field in fields(message)? {
            match field {
                (1, Field::Bytes(bytes)) => request.identity = String::from_utf8(bytes.to_vec()).ok()?,
                (2, Field::Bytes(bytes)) => request.token = bytes.to_vec(),
                (3, Field::Bytes(bytes)) => request.signing_request = bytes.to_vec(),
                _ => {}
            }
        }
        Some(request)
    }
}

// === impl CertifyResponse ===

impl CertifyResponse {
    /// As protobuf.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, &self.leaf);
        for certificate in &self.intermediates {
            put_bytes(&mut message, 2, certificate);
        }
        // google.protobuf.Timestamp: seconds in its field 1.
        let mut timestamp = vec![1 << 3];
        put_varint(&mut timestamp, self.valid_until);
        put_bytes(&mut message, 3, &timestamp);
        message
    }

    /// From protobuf; `None` if that is not what it is.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let mut response = Self { leaf: Vec::new(), intermediates: Vec::new(), valid_until: 0 };
        for field in fields(message)? {
            match field {
                (1, Field::Bytes(bytes)) => response.leaf = bytes.to_vec(),
                (2, Field::Bytes(bytes)) => response.intermediates.push(bytes.to_vec()),
                (3, Field::Bytes(bytes)) => {
                    for field in fields(bytes)? {
                        if let (1, Field::Varint(seconds)) = field {
                            response.valid_until = seconds;
                        }
                    }
                }
                _ => {}
            }
        }
        Some(response)
    }
}

enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Fixed 32 or 64 bits, of which these messages have none.
    Fixed,
}

fn fields(mut message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let field = match tag & 7 {
            0 => Field::Varint(take_varint(&mut message)?),
            1 => take(&mut message, 8).map(|_| Field::Fixed)?,
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                Field::Bytes(take(&mut message, length)?)
            }
            5 => take(&mut message, 4).map(|_| Field::Fixed)?,
            _ => return None,
        };
        found.push((tag >> 3, field));
    }
    Some(found)
}

fn take<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(taken)
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(message, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn put_varint(message: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            message.push(low);
            return;
        }
        message.push(low | 0x80);
    }
}

fn put_bytes(message: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    // proto3: the default is not written.
    if !bytes.is_empty() {
        put_varint(message, number << 3 | 2);
        put_varint(message, bytes.len() as u64);
        message.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        let request = CertifyRequest {
            identity: "web.shop.serviceaccount.identity.linkerd.cluster.local".to_owned(),
            token: vec![b'x'; 900],
            signing_request: vec![0x30, 0],
        };
        assert_eq!(CertifyRequest::decode(&request.encode()), Some(request));
        let response = CertifyResponse {
            leaf: vec![0x30; 300],
            intermediates: vec![vec![1], vec![2, 3]],
            valid_until: 1_800_000_000,
        };
        assert_eq!(CertifyResponse::decode(&response.encode()), Some(response));
    }

    #[test]
    fn nothing_in_it_is_no_bytes_at_all() {
        assert_eq!(CertifyRequest::default().encode(), Vec::<u8>::new());
        assert_eq!(CertifyRequest::decode(&[]), Some(CertifyRequest::default()));
        assert_eq!(&frame(&[])[..], [0; 5]);
    }

    #[test]
    fn what_is_cut_short_is_no_message() {
        assert_eq!(unframe(Bytes::from_static(&[0, 0, 0, 0, 2, 1])), None);
        assert_eq!(CertifyRequest::decode(&[0x0a, 5, b'x']), None);
    }
}
