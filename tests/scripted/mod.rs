//! An API server that follows a script: a request that is not in it fails the test, and so does one that never came.

use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower_test::mock::{self, Handle};

/// What one request has to be, and what is answered.
pub struct Step {
    pub method: Method,
    pub path_and_query: &'static str,
    pub body: Value,
    pub answer: (StatusCode, Value),
}

/// Runs `act` against an API server that follows `steps` and nothing else.
pub async fn scripted<T>(steps: Vec<Step>, act: impl AsyncFnOnce(Client) -> T) -> T {
    let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
    let server = tokio::spawn(serve(handle, steps));
    let result = act(Client::new(service, "default")).await;
    server.await.expect("the script was followed to its end");
    result
}

async fn serve(mut handle: Handle<Request<Body>, Response<Body>>, steps: Vec<Step>) {
    for step in steps {
        let (request, respond) = handle.next_request().await.expect("a request that the script expects");
        assert_eq!(request.method(), step.method);
        assert_eq!(plain(request.uri()), step.path_and_query);
        let content_type = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap().to_owned());
        let bytes = request.into_body().collect_bytes().await.unwrap();
        let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
        assert_eq!(body, step.body);
        if step.method == Method::PATCH {
            let kind = if body.is_array() { "application/json-patch+json" } else { "application/merge-patch+json" };
            assert_eq!(content_type.as_deref(), Some(kind));
        }
        let (status, answer) = step.answer;
        let answer = Body::from(serde_json::to_vec(&answer).unwrap());
        respond.send_response(Response::builder().status(status).body(answer).unwrap());
    }
    // The client is gone once `act` has returned: anything else that comes was not in the script.
    assert!(handle.next_request().await.is_none(), "a request that the script does not know");
}

/// Path and query, without the empty parts that kube leaves in (`?`, `?&`).
fn plain(uri: &http::Uri) -> String {
    let parts: Vec<&str> = uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), parts.join("&")) }
}

/// A refusal as the API server words it.
pub fn status(code: u16, reason: &str, message: &str) -> (StatusCode, Value) {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code});
    (StatusCode::from_u16(code).unwrap(), body)
}
