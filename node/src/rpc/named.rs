//! What tonic refuses by itself, before a service is asked, gets a reason and google.rpc.ErrorInfo like every other refusal.
//!
//! That is: messages that cannot be decoded, that are too large, compressed, cut off or missing, and methods that do not exist.
//! tonic answers them with a bare status in the response's headers; our services' own refusals carry details and pass unchanged.
//!
//! Invariant: whatever is named here was not carried out, for its request never reached a service.

use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tonic::body::Body;
use tonic::codegen::http::Response;
use tonic::{Code, Status};
use tower::util::MapResponseLayer;

use super::refuse;

const STATUS: &str = "grpc-status";
const DETAILS: &str = "grpc-status-details-bin";
/// prost's words before the path to what it could not decode.
const UNDECODED: &str = "failed to decode Protobuf message: ";

/// See [`layer`].
pub(super) type Naming = MapResponseLayer<fn(Response<Body>) -> Response<Body>>;

/// Names the bare refusals of everything below it.
#[must_use]
pub(super) fn layer() -> Naming {
    MapResponseLayer::new(name_response)
}

fn name_response(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers();
    // A service's answer has its status in the trailers, its refusal has details.
    if !headers.contains_key(STATUS) || headers.contains_key(DETAILS) {
        return response;
    }
    let Some(refusal) = Status::from_header_map(headers).and_then(|status| undecoded(&status)) else {
        return response;
    };
    if let Err(status) = refuse(refusal).add_header(response.headers_mut()) {
        tracing::error!(%status, "a refusal does not fit into headers");
    }
    response
}

/// Why a stream of requests cannot be read on.
#[must_use]
pub(super) fn broken_stream(status: &Status) -> Refusal {
    Refusal::from_status(status).or_else(|| undecoded(status)).unwrap_or_else(|| {
        let why = format!("the stream of requests broke off: {}", status.message());
        Refusal::new(Reason::RequestMalformed, "", why)
    })
}

/// The refusal that a status of tonic's about a request stands for; none if it is about something else.
fn undecoded(status: &Status) -> Option<Refusal> {
    let said = status.message();
    let refusal = match status.code() {
        // By its stated length, or while it was unpacked.
        Code::OutOfRange | Code::ResourceExhausted => Refusal::new(Reason::RequestTooLarge, "", said),
        Code::Internal => {
            let path = said.strip_prefix(UNDECODED).map(field_of).unwrap_or_default();
            Refusal::new(Reason::RequestMalformed, path, said)
        }
        Code::Unimplemented if said.contains("compressed") => {
            Refusal::new(Reason::EncodingUnsupported, "", said)
        }
        Code::Unimplemented => Refusal::new(Reason::MethodUnknown, "", "there is no such method here"),
        _ => return None,
    };
    Some(refusal)
}

/// The path in prost's words, which begin with the innermost: `Entry.key: AppendRequest.entries: invalid ...` is about `entries.key`.
fn field_of(words: &str) -> String {
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let steps = words.split(": ").map_while(|step| {
        let (message, field) = step.split_once('.')?;
        (is_word(message) && is_word(field)).then_some(field)
    });
    let mut steps: Vec<&str> = steps.collect();
    steps.reverse();
    steps.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tercet_proto::v1;

    fn named(status: Status) -> (Code, Refusal) {
        let status = Status::from_header_map(name_response(status.into_http()).headers()).expect("a status");
        (status.code(), Refusal::from_status(&status).expect("ErrorInfo"))
    }

    /// Account names in GBK: INTERNAL without ErrorInfo, which says that the outcome is unknown.
    #[test]
    fn what_cannot_be_decoded_is_malformed_and_names_its_field() {
        let postings = vec![v1::Posting { account: "XX".into(), ..Default::default() }];
        let entries = vec![v1::Entry { postings, ..Default::default() }];
        let request = v1::AppendRequest { entries, ..Default::default() };
        let mut bytes = prost::Message::encode_to_vec(&request);
        let at = bytes.windows(2).position(|pair| pair == b"XX").expect("the account");
        bytes[at..at + 2].copy_from_slice(&[0xb9, 0xa4]);
        let error = <v1::AppendRequest as prost::Message>::decode(&bytes[..]).expect_err("it is GBK");
        let (code, refusal) = named(Status::internal(error.to_string()));
        assert_eq!((code, refusal.reason), (Code::InvalidArgument, Reason::RequestMalformed));
        assert_eq!(refusal.field, "entries.postings.account", "{error}");
    }

    #[test]
    fn every_bare_status_of_tonics_has_a_reason() {
        let cases = [
            (Status::out_of_range("decoded message length too large"), Reason::RequestTooLarge),
            (Status::internal("Missing request message."), Reason::RequestMalformed),
            (
                Status::internal("protocol error: received message with compressed-flag"),
                Reason::RequestMalformed,
            ),
            (
                Status::unimplemented("Content is compressed with `gzip` which isn't supported"),
                Reason::EncodingUnsupported,
            ),
            (Status::unimplemented(""), Reason::MethodUnknown),
        ];
        for (status, reason) in cases {
            let words = status.to_string();
            let (code, refusal) = named(status);
            assert_eq!((refusal.reason, code), (reason, reason.grpc_code()), "{words}");
        }
    }

    /// What the layer below refuses for a caller that holds too much, or stands still, was told as REQUEST_TOO_LARGE or REQUEST_MALFORMED
    /// on a stream: the caller would have given up what it only had to send again.
    #[test]
    fn a_stream_that_is_refused_keeps_the_reason() {
        for reason in [Reason::Overloaded, Reason::CallerStalled, Reason::RequestTooLarge] {
            assert_eq!(broken_stream(&refuse(Refusal::new(reason, "", "why"))).reason, reason);
        }
        assert_eq!(broken_stream(&Status::unknown("h2 protocol error")).reason, Reason::RequestMalformed);
    }

    #[test]
    fn what_services_say_passes_unchanged() {
        let ours = Refusal::new(Reason::Internal, "", "the log lacks index 7");
        let (code, refusal) = named(refuse(ours.clone()));
        assert_eq!((code, refusal), (Code::Internal, ours));
        // The health service's own words.
        let response = name_response(Status::not_found("service not registered").into_http());
        assert!(!response.headers().contains_key(DETAILS));
    }
}
