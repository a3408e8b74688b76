//! What somebody is sent by OTLP, and what happens where nobody takes it.

mod common;

use std::{
    collections::HashMap,
    convert::Infallible,
    io::Read as _,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use async_container_metrics::{Exporter, Family, Otlp, Value};
use common::Log;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request, Response, body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    common::v1::{KeyValue, any_value},
    metrics::v1::{Metric, metric::Data, number_data_point::Value as Number},
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};

const LIMIT: Duration = Duration::from_secs(60);

/// How a request is answered. No answer at all is one that never comes.
type Answer = Option<(u16, Option<(&'static str, &'static str)>, Vec<u8>)>;

struct Received {
    path: String,
    headers: HeaderMap,
    request: ExportMetricsServiceRequest,
    at: Instant,
}

impl Received {
    fn metrics(&self) -> HashMap<&str, &Metric> {
        let metrics = &self.request.resource_metrics[0].scope_metrics[0].metrics;
        metrics.iter().map(|metric| (metric.name.as_str(), metric)).collect()
    }
}

/// Somebody who takes numbers, and answers the first requests like this, later ones well.
struct Receiver {
    endpoint: String,
    received: mpsc::UnboundedReceiver<Received>,
    task: JoinHandle<()>,
}

impl Receiver {
    async fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (sender, received) = mpsc::unbounded_channel();
        let answers = Arc::new(Mutex::new(answers.into_iter()));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (sender, answers) = (sender.clone(), answers.clone());
                let service = service_fn(move |request| answer(request, sender.clone(), answers.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { endpoint, received, task }
    }

    async fn next(&mut self) -> Received {
        timeout(LIMIT, self.received.recv()).await.expect("a push").unwrap()
    }
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    sender: mpsc::UnboundedSender<Received>,
    answers: Arc<Mutex<std::vec::IntoIter<Answer>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    assert_eq!(head.method, "POST");
    let mut body = body.collect().await.unwrap().to_bytes().to_vec();
    if head.headers.contains_key("content-encoding") {
        body = decompress(&body);
    }
    let request = ExportMetricsServiceRequest::decode(body.as_slice()).unwrap();
    let _ =
        sender.send(Received { path: head.uri.path().to_owned(), headers: head.headers, request, at: Instant::now() });
    let answer = answers.lock().unwrap().next().unwrap_or_else(|| Some((200, None, Vec::new())));
    let Some((status, header, body)) = answer else { return std::future::pending().await };
    let mut response = Response::builder().status(status);
    if let Some((name, value)) = header {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(body.into())).unwrap())
}

fn decompress(body: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    flate2::read::GzDecoder::new(body).read_to_end(&mut decoded).unwrap();
    decoded
}

fn families() -> Vec<Family> {
    let mut calls = Family::counter("calls", "Calls that came in.");
    calls.push([("operation", "status")], 7);
    calls.push([("operation", "lost")], -1.0);
    let mut duration = Family::histogram("call_duration", "How long.").unit("seconds");
    let value = Value::Histogram { buckets: vec![(0.1, 3), (1.0, 2)], count: 6, sum: 12.5 };
    duration.push([("operation", "ping")], value);
    vec![
        calls,
        duration,
        Family::counter("cpu_seconds_total", "Time.").unit("seconds").with(1.5),
        Family::gauge("resident", "Memory.").unit("bytes").with(4096),
        Family::gauge("resident_bytes", "Again.").with(1),
        Family::gauge("nothing", "Without a value."),
    ]
}

fn exporter(otlp: Otlp) -> Exporter {
    otlp.exporter("my-app").unwrap().unwrap()
}

fn start(otlp: Otlp) -> JoinHandle<()> {
    let mut exporter = exporter(otlp);
    tokio::spawn(async move { match exporter.run(|| async { families() }).await {} })
}

const FAILED: &str = "numbers could not be pushed by OTLP";
const AGAIN: &str = "numbers are pushed by OTLP again";

fn attributes<'a>(attributes: &'a [KeyValue]) -> Vec<(&'a str, &'a any_value::Value)> {
    let value = |attribute: &'a KeyValue| attribute.value.as_ref().and_then(|value| value.value.as_ref()).unwrap();
    attributes.iter().map(|attribute| (attribute.key.as_str(), value(attribute))).collect()
}

fn text(text: &str) -> any_value::Value {
    any_value::Value::StringValue(text.to_owned())
}

fn nanoseconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

#[tokio::test]
async fn all_kinds_of_numbers_are_pushed() {
    let mut receiver = Receiver::start(vec![]).await;
    let before = nanoseconds();
    let otlp = Otlp::new(&receiver.endpoint).header("authorization", "Bearer secret").attribute("zone", "z");
    let exporter = exporter(otlp);
    let made = nanoseconds();
    exporter.last(families()).await;
    let received = receiver.next().await;
    let after = nanoseconds();

    assert_eq!(received.path, "/v1/metrics");
    assert_eq!(received.headers["content-type"], "application/x-protobuf");
    assert_eq!(received.headers["authorization"], "Bearer secret");
    let resource = received.request.resource_metrics[0].resource.as_ref().unwrap();
    let resource: HashMap<_, _> = attributes(&resource.attributes).into_iter().collect();
    assert_eq!((resource["service.name"], resource["zone"]), (&text("my-app"), &text("z")));
    assert_eq!(resource["process.pid"], &any_value::Value::IntValue(std::process::id().into()));
    assert!(resource.contains_key("service.instance.id") && resource.contains_key("host.name"));

    let metrics = received.metrics();
    let mut names: Vec<_> = metrics.keys().copied().collect();
    names.sort_unstable();
    let expected = ["acs_call_duration_seconds", "acs_calls_total", "acs_cpu_seconds_total", "acs_resident_bytes"];
    assert_eq!(names, expected, "the same as in the text");

    let Some(Data::Sum(calls)) = &metrics["acs_calls_total"].data else { panic!("{metrics:?}") };
    assert!(calls.is_monotonic && calls.aggregation_temporality == 2, "cumulative: {calls:?}");
    assert_eq!(calls.data_points.len(), 1, "a counter is not negative");
    let point = &calls.data_points[0];
    assert_eq!(point.value, Some(Number::AsInt(7)));
    assert_eq!(attributes(&point.attributes), [("operation", &text("status"))]);
    assert!((before..=made).contains(&point.start_time_unix_nano), "{point:?}");
    assert!((made..=after).contains(&point.time_unix_nano), "{point:?}");

    let cpu = &metrics["acs_cpu_seconds_total"];
    assert_eq!((cpu.unit.as_str(), cpu.description.as_str()), ("s", "Time."));
    assert!(matches!(&cpu.data, Some(Data::Sum(sum)) if sum.data_points[0].value == Some(Number::AsDouble(1.5))));

    assert_eq!(metrics["acs_resident_bytes"].unit, "By");
    let Some(Data::Gauge(resident)) = &metrics["acs_resident_bytes"].data else { panic!("{metrics:?}") };
    assert_eq!(resident.data_points[0].value, Some(Number::AsInt(4096)));

    let Some(Data::Histogram(duration)) = &metrics["acs_call_duration_seconds"].data else { panic!("{metrics:?}") };
    assert_eq!(duration.aggregation_temporality, 2);
    let point = &duration.data_points[0];
    assert_eq!((point.count, point.sum), (6, Some(12.5)));
    assert_eq!((&point.bucket_counts, &point.explicit_bounds), (&vec![3, 2, 1], &vec![0.1, 1.0]));
    assert!((before..=made).contains(&point.start_time_unix_nano), "{point:?}");
}

#[tokio::test]
async fn what_is_compressed_is_the_same() {
    let mut receiver = Receiver::start(vec![]).await;
    exporter(Otlp::new(&receiver.endpoint).gzip(true)).last(families()).await;
    let received = receiver.next().await;
    assert_eq!(received.headers["content-encoding"], "gzip");
    assert_eq!(received.metrics().len(), 4);
}

#[tokio::test]
async fn a_failure_is_said_once_and_so_is_its_end() {
    let (log, _guard) = Log::begin();
    let busy = || Some((503, None, b"try\nlater".to_vec()));
    let mut receiver = Receiver::start(vec![busy(), busy()]).await;
    let task = start(Otlp::new(&receiver.endpoint).interval(Duration::from_millis(20)));
    let mut starts = Vec::new();
    for _ in 0..5 {
        let received = receiver.next().await;
        let Some(Data::Sum(calls)) = &received.metrics()["acs_calls_total"].data else { panic!("no sum") };
        starts.push(calls.data_points[0].start_time_unix_nano);
    }
    task.abort();
    assert!(starts.iter().all(|start| *start == starts[0]), "one that begins anew would be another: {starts:?}");
    let text = log.text();
    assert_eq!((log.count(FAILED), log.count(AGAIN)), (1, 1), "{text}");
    assert!(text.contains("WARN") && text.contains("503 Service Unavailable: try later"), "{text}");
    assert!(text.contains("INFO"), "{text}");
}

#[tokio::test]
async fn who_asks_for_a_pause_gets_one() {
    let (log, _guard) = Log::begin();
    let mut receiver = Receiver::start(vec![Some((429, Some(("retry-after", "2")), vec![]))]).await;
    let task = start(Otlp::new(&receiver.endpoint).interval(Duration::from_millis(20)));
    let (first, second) = (receiver.next().await, receiver.next().await);
    let pause = second.at.duration_since(first.at);
    assert!(pause >= Duration::from_millis(1900), "{pause:?}");
    receiver.next().await;
    task.abort();
    assert_eq!((log.count(FAILED), log.count(AGAIN)), (1, 1), "{}", log.text());
}

#[tokio::test]
async fn numbers_that_are_rejected_are_told() {
    let (log, _guard) = Log::begin();
    let part = ExportMetricsPartialSuccess { rejected_data_points: 3, error_message: "too many series".to_owned() };
    let answer = ExportMetricsServiceResponse { partial_success: Some(part) }.encode_to_vec();
    let receiver = Receiver::start(vec![Some((200, None, answer))]).await;
    exporter(Otlp::new(&receiver.endpoint)).last(families()).await;
    assert!(log.text().contains("3 numbers were rejected: too many series"), "{}", log.text());
}

#[tokio::test]
async fn nobody_there_is_a_failure_until_somebody_is() {
    let (log, _guard) = Log::begin();
    // Bound, so that nobody else gets it, and not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let task = start(Otlp::new(format!("http://{address}")).interval(Duration::from_millis(20)));
    let said = timeout(LIMIT, async {
        while log.count(FAILED) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    said.await.expect("it is said");
    assert!(log.text().contains("Connection refused"), "{}", log.text());

    let listener = socket.listen(16).unwrap();
    let (mut stream, _) = timeout(LIMIT, listener.accept()).await.expect("a push").unwrap();
    let mut received = Vec::new();
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.read_buf(&mut received).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    let said = timeout(LIMIT, async {
        while log.count(AGAIN) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    said.await.expect("it is said");
    task.abort();
    assert_eq!(log.count(FAILED), 1, "{}", log.text());
}

#[tokio::test]
async fn who_does_not_answer_is_left_after_the_time_out() {
    let (log, _guard) = Log::begin();
    let mut receiver = Receiver::start(vec![None]).await;
    let otlp = Otlp::new(&receiver.endpoint).interval(Duration::from_millis(20)).timeout(Duration::from_millis(300));
    let task = start(otlp);
    receiver.next().await;
    receiver.next().await;
    receiver.next().await;
    task.abort();
    assert_eq!((log.count("no answer within 0.3 s"), log.count(AGAIN)), (1, 1), "{}", log.text());
}

#[tokio::test]
async fn the_last_push_does_not_hold_up_the_end() {
    let receiver = Receiver::start(vec![None]).await;
    let begin = Instant::now();
    exporter(Otlp::new(&receiver.endpoint).timeout(LIMIT)).last(families()).await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(30), "{took:?}");
    receiver.task.abort();
}
