//! Pushing by OTLP over HTTP.

mod request;

use std::{
    convert::Infallible,
    error::Error,
    fmt,
    io::{self, Write as _},
    time::{Duration, SystemTime},
};

use async_container_monitors::Family;
use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, StatusCode, Uri,
    body::Bytes,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceResponse, common::v1::any_value, resource::v1::Resource,
};
use prost::Message as _;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use self::request::{attribute, request, text};

/// What is added to an endpoint.
const PATH: &str = "/v1/metrics";

/// The longest that the last push may take: somebody waits for the end.
const LAST: Duration = Duration::from_secs(2);

/// The longest that somebody who takes no numbers now is obeyed: a date that is wrong must not be the end of them.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// How much of an answer is read, in bytes, and how much of that is told, in characters.
const ANSWER: usize = 64 << 10;
const TOLD: usize = 200;

/// Where numbers are pushed to, by OTLP over HTTP, and how often.
///
/// What is not said here is as the [variables of
/// OpenTelemetry](https://opentelemetry.io/docs/specs/otel/protocol/exporter/) say, else as told at each method.
///
/// ```
/// use std::time::Duration;
/// use async_container_metrics::Otlp;
///
/// let exporter = Otlp::new("http://127.0.0.1:4318").interval(Duration::from_secs(10)).exporter("my-app")?;
/// # assert!(exporter.is_some());
/// assert!(Otlp::new("https://otlp.example.com").exporter("my-app").is_err());
/// # Ok::<(), async_container_metrics::OtlpError>(())
/// ```
#[derive(Clone, Default)]
pub struct Otlp {
    endpoint: Option<String>,
    headers: Vec<(String, String)>,
    attributes: Vec<(String, String)>,
    timeout: Option<Duration>,
    interval: Option<Duration>,
    gzip: Option<bool>,
}

/// What is wrong with an [`Otlp`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OtlpError {
    /// No address of somebody who takes numbers.
    #[error("OTLP cannot be pushed to `{endpoint}`, {reason}: it must be like http://127.0.0.1:4318")]
    Endpoint {
        /// What it is.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An encrypted connection is asked for.
    #[error(
        "OTLP cannot be pushed to `{endpoint}`, since nothing is encrypted here: push to an OpenTelemetry Collector at \
         http://127.0.0.1:4318, and have that one send it on"
    )]
    Encrypted {
        /// Where to.
        endpoint: String,
    },
    /// Another protocol is asked for.
    #[error("OTLP cannot be pushed by `{protocol}`, as {variable} says: it must be `http/protobuf`")]
    Protocol {
        /// Which one.
        protocol: String,
        /// Where it is asked for.
        variable: &'static str,
    },
    /// A header that is none.
    #[error("`{name}` is no header with a value that OTLP can be pushed with")]
    Header {
        /// Its name.
        name: String,
    },
    /// A time that is none.
    #[error("the {what} of pushing OTLP must be longer than nothing")]
    Zero {
        /// Which one.
        what: &'static str,
    },
}

impl Otlp {
    /// To the endpoint, such as `http://127.0.0.1:4318`, which `/v1/metrics` is added to. It wins over the variables.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self { endpoint: Some(endpoint.into()), ..Self::default() }
    }

    /// Where to is what `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT` says, to which nothing is added, else
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, else `http://localhost:4318`.
    pub fn from_environment() -> Self {
        Self::default()
    }

    /// Adds a header, as for a password. Those of `OTEL_EXPORTER_OTLP_METRICS_HEADERS`, else of
    /// `OTEL_EXPORTER_OTLP_HEADERS`, with other names are sent as well. Default is none.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds an attribute of the application, such as `deployment.environment.name`. It wins over those of
    /// `OTEL_RESOURCE_ATTRIBUTES` and over `OTEL_SERVICE_NAME`, and these win over the defaults: `service.name`,
    /// `service.instance.id`, `process.pid` and `host.name`.
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((key.into(), value.into()));
        self
    }

    /// How long one push may take. Default is what `OTEL_EXPORTER_OTLP_METRICS_TIMEOUT` or `OTEL_EXPORTER_OTLP_TIMEOUT` says,
    /// in milliseconds, else 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The time between pushes. Default is what `OTEL_METRIC_EXPORT_INTERVAL` says, in milliseconds, else 60 s.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Whether what is pushed is compressed by gzip, to a fifth of its size or less. Default is what
    /// `OTEL_EXPORTER_OTLP_METRICS_COMPRESSION` or `OTEL_EXPORTER_OTLP_COMPRESSION` says, `gzip` or `none`, else no.
    pub fn gzip(mut self, gzip: bool) -> Self {
        self.gzip = Some(gzip);
        self
    }

    /// What pushes the numbers of the service of that name, which is that of the application. None, if `OTEL_SDK_DISABLED` is
    /// `true`.
    pub fn exporter(self, service: &str) -> Result<Option<Exporter>, OtlpError> {
        self.exporter_in(service, |name| std::env::var(name).ok())
    }

    fn exporter_in(
        self,
        service: &str,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Exporter>, OtlpError> {
        // A variable without a value is as if it was not there.
        let variable =
            |name: &str| environment(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let of_metrics =
            |end: &str| ["METRICS_", ""].iter().find_map(|part| variable(&format!("OTEL_EXPORTER_OTLP_{part}{end}")));
        let mut complaints = Vec::new();
        let mut time = |name: &str, value: Option<String>, default: u64| {
            let milliseconds = value.as_deref().map_or(Ok(default), str::parse);
            let milliseconds = milliseconds.ok().filter(|milliseconds| *milliseconds > 0).unwrap_or_else(|| {
                complaints.push(format!("{name} is no number of milliseconds, so it is {default}"));
                default
            });
            Duration::from_millis(milliseconds)
        };
        let default_timeout = time("OTEL_EXPORTER_OTLP_TIMEOUT", of_metrics("TIMEOUT"), 10_000);
        let default_interval = time("OTEL_METRIC_EXPORT_INTERVAL", variable("OTEL_METRIC_EXPORT_INTERVAL"), 60_000);
        let default_gzip = match of_metrics("COMPRESSION").as_deref() {
            Some("gzip") => true,
            Some("none") | None => false,
            Some(_) => {
                let name = "OTEL_EXPORTER_OTLP_COMPRESSION";
                complaints.push(format!("{name} is neither `gzip` nor `none`, so nothing is compressed"));
                false
            }
        };
        let temporality = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        if variable(temporality).is_some_and(|preference| !preference.eq_ignore_ascii_case("cumulative")) {
            complaints.push(format!("{temporality} is not `cumulative`, which is all that there is"));
        }

        if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let (timeout, interval) = (self.timeout.unwrap_or(default_timeout), self.interval.unwrap_or(default_interval));
        for (what, time) in [("time-out", timeout), ("interval", interval)] {
            if time.is_zero() {
                return Err(OtlpError::Zero { what });
            }
        }

        let uri = match (&self.endpoint, variable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")) {
            (Some(endpoint), _) => address(endpoint, PATH)?,
            (None, Some(endpoint)) => address(&endpoint, "")?,
            (None, None) => {
                let endpoint = variable("OTEL_EXPORTER_OTLP_ENDPOINT");
                address(endpoint.as_deref().unwrap_or("http://localhost:4318"), PATH)?
            }
        };
        for name in ["OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            match variable(name) {
                Some(protocol) if protocol != "http/protobuf" && self.endpoint.is_none() => {
                    return Err(OtlpError::Protocol { protocol, variable: name });
                }
                Some(_) => break,
                None => {}
            }
        }

        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        for (name, value) in pairs(&of_metrics("HEADERS").unwrap_or_default()).into_iter().chain(self.headers) {
            let header = (HeaderName::try_from(&name), HeaderValue::try_from(value));
            let (Ok(key), Ok(mut value)) = header else { return Err(OtlpError::Header { name }) };
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let gzip = self.gzip.unwrap_or(default_gzip);
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }

        let given = pairs(&variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default());
        let name = variable("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name));
        let attributes = given.into_iter().chain(name).chain(self.attributes);
        let attributes = attributes.map(|(key, value)| (key, text(&value)));
        let mut resource = Resource::default();
        for (key, value) in defaults(service).into_iter().chain(attributes) {
            resource.attributes.retain(|attribute| attribute.key != key);
            resource.attributes.push(attribute(&key, value));
        }

        // One connection for each push: they are far apart, and one that was kept would have been closed by then.
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
        let not_before = Instant::now();
        let is_failing = false;
        Ok(Some(Exporter {
            uri,
            headers,
            timeout,
            interval,
            gzip,
            resource,
            client,
            began: SystemTime::now(),
            not_before,
            is_failing,
            complaints,
        }))
    }
}

impl fmt::Debug for Otlp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers are secrets.
        formatter.debug_struct("Otlp").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// What it says it is.
const AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// The endpoint with what is added to its path.
fn address(endpoint: &str, path: &str) -> Result<Uri, OtlpError> {
    let wrong = |reason| OtlpError::Endpoint { endpoint: endpoint.to_owned(), reason };
    let uri: Uri = endpoint.parse().map_err(|_| wrong("which is no URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(OtlpError::Encrypted { endpoint: endpoint.to_owned() }),
        _ => return Err(wrong("which does not begin with http://")),
    }
    let authority = uri.authority().filter(|authority| !authority.host().is_empty());
    let authority = authority.ok_or_else(|| wrong("which has no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong("which has a user in it; add a header `authorization` instead"));
    }
    if authority.as_str().len() > authority.host().len() && authority.port_u16().is_none() {
        return Err(wrong("which has a port that is none"));
    }
    let path = match path {
        "" => uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        path => format!("{}{path}", uri.path().trim_end_matches('/')),
    };
    let built = Uri::builder().scheme("http").authority(authority.clone()).path_and_query(path).build();
    built.map_err(|_| wrong("which is no URL"))
}

/// What a list like `name=value,other=value` says, with `%20` and the like in its values. What has no `=` is left out.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let decoded = |text: &str| percent_encoding::percent_decode_str(text.trim()).decode_utf8_lossy().into_owned();
        Some((decoded(name), decoded(value))).filter(|(name, _)| !name.is_empty())
    };
    text.split(',').filter_map(pair).collect()
}

/// What is known of the application without being told.
fn defaults(service: &str) -> Vec<(String, any_value::Value)> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    // The one above is the root, which stays when this process is restarted.
    let parent = rustix::process::getppid().map_or(0, |process| process.as_raw_nonzero().get());
    [
        ("service.name", text(service)),
        ("service.instance.id", text(&format!("{host}:{parent}"))),
        ("process.pid", any_value::Value::IntValue(std::process::id().into())),
        ("host.name", text(&host)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// What pushes numbers, as made by [`Otlp::exporter`].
///
/// All that is counted is sent as it is by then, so what could not be pushed is in what is pushed next, and nothing is kept.
pub struct Exporter {
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
    interval: Duration,
    gzip: bool,
    resource: Resource,
    client: Client<HttpConnector, Full<Bytes>>,
    began: SystemTime,
    /// When whoever takes the numbers wants to have some again.
    not_before: Instant,
    is_failing: bool,
    /// What was wrong with variables.
    complaints: Vec<String>,
}

impl fmt::Debug for Exporter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Exporter").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// Why numbers were not taken.
struct Refusal {
    reason: String,
    retry_after: Option<Duration>,
}

impl Exporter {
    /// Pushes what `gather` gives, first after one interval, until the future is dropped, which may be at any time.
    pub async fn run<G, F>(&mut self, gather: G) -> Infallible
    where
        G: Fn() -> F,
        F: Future<Output = Vec<Family>>,
    {
        for complaint in self.complaints.drain(..) {
            tracing::warn!(complaint, "a variable for OTLP is not understood");
        }
        tracing::debug!(endpoint = %self.uri, interval = self.interval.as_secs_f64(), "pushing numbers by OTLP");
        let mut ticks = interval_at(Instant::now() + self.interval, self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);

        loop {
            ticks.tick().await;
            if Instant::now() >= self.not_before {
                self.push(gather().await, self.timeout).await;
            }
        }
    }

    /// Pushes these a last time, within two seconds, unless whoever takes them wants none yet.
    pub async fn last(mut self, families: Vec<Family>) {
        if Instant::now() >= self.not_before {
            self.push(families, self.timeout.min(LAST)).await;
        }
    }

    async fn push(&mut self, families: Vec<Family>, limit: Duration) {
        match self.send(families, limit).await {
            Ok(()) if self.is_failing => {
                self.is_failing = false;
                tracing::info!(endpoint = %self.uri, "numbers are pushed by OTLP again");
            }
            Ok(()) => {}
            Err(Refusal { reason, retry_after }) => {
                if let Some(pause) = retry_after {
                    self.not_before = Instant::now() + pause.min(LONGEST_RETRY_AFTER);
                }
                if self.is_failing {
                    tracing::debug!(endpoint = %self.uri, reason, "numbers could still not be pushed by OTLP");
                } else {
                    self.is_failing = true;
                    tracing::warn!(endpoint = %self.uri, reason, "numbers could not be pushed by OTLP");
                }
            }
        }
    }

    async fn send(&self, families: Vec<Family>, limit: Duration) -> Result<(), Refusal> {
        let refusal = |reason: String| Refusal { reason, retry_after: None };
        let (resource, began, gzip) = (self.resource.clone(), self.began, self.gzip);
        // Off the thread that does other things as well: of many workers this may be a megabyte.
        let encoded = tokio::task::spawn_blocking(move || {
            let body = request(&families, resource, began).encode_to_vec();
            if gzip { compress(&body) } else { Ok(body) }
        });
        let body = encoded.await.map_err(|error| refusal(chain(&error)))?.map_err(|error| refusal(chain(&error)))?;
        let mut request =
            Request::post(&self.uri).body(Full::new(Bytes::from(body))).map_err(|error| refusal(chain(&error)))?;
        *request.headers_mut() = self.headers.clone();

        let answer = async {
            let response = self.client.request(request).await.map_err(|error| refusal(chain(&error)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER).collect().await.map_err(|error| refusal(chain(error.as_ref())))?;
            Ok((head, body.to_bytes()))
        };
        let (head, body) = timeout(limit, answer)
            .await
            .map_err(|_| refusal(format!("no answer within {} s", limit.as_secs_f64())))??;
        if !head.status.is_success() {
            let is_busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&head.status);
            let retry_after = head.headers.get(RETRY_AFTER).filter(|_| is_busy).and_then(pause);
            return Err(Refusal { reason: format!("{}: {}", head.status, beginning(&body)), retry_after });
        }
        match ExportMetricsServiceResponse::decode(body).ok().and_then(|response| response.partial_success) {
            Some(part) if part.rejected_data_points > 0 => {
                let message = beginning(part.error_message.as_bytes());
                Err(refusal(format!("{} numbers were rejected: {message}", part.rejected_data_points)))
            }
            _ => Ok(()),
        }
    }
}

fn compress(body: &[u8]) -> io::Result<Vec<u8>> {
    // The names and labels that make up most of it are found again at any level.
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// What `Retry-After` asks for: seconds, or a date.
fn pause(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).ok())
}

/// As much of it as fits into a line of the log.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(TOLD).collect();
    line.trim().to_owned()
}

/// An error and why it came to be.
fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exporter(otlp: Otlp, environment: &[(&str, &str)]) -> Result<Option<Exporter>, OtlpError> {
        let find = |wanted: &str| environment.iter().find(|(name, _)| *name == wanted);
        otlp.exporter_in("my-app", |wanted| find(wanted).map(|(_, value)| (*value).to_owned()))
    }

    fn made(otlp: Otlp, environment: &[(&str, &str)]) -> Exporter {
        exporter(otlp, environment).unwrap().unwrap()
    }

    const OWN: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
    const ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

    #[test]
    fn where_to_is_what_the_specification_says() {
        let uri = |otlp, environment: &[_]| made(otlp, environment).uri.to_string();
        let environment = Otlp::from_environment;
        assert_eq!(uri(environment(), &[]), "http://localhost:4318/v1/metrics");
        assert_eq!(uri(environment(), &[(ALL, "http://a:1/base/")]), "http://a:1/base/v1/metrics");
        assert_eq!(uri(environment(), &[(ALL, "http://a:1"), (OWN, "http://b:2/own")]), "http://b:2/own");
        assert_eq!(uri(environment(), &[(ALL, " "), (OWN, "http://[::1]:2")]), "http://[::1]:2/");
        assert_eq!(uri(Otlp::new("http://c:3"), &[(ALL, "http://a:1"), (OWN, "http://b")]), "http://c:3/v1/metrics");
    }

    #[test]
    fn a_wrong_endpoint_is_refused_and_it_is_said_what_would_be_right() {
        let message = |endpoint: &str| exporter(Otlp::new(endpoint), &[]).unwrap_err().to_string();
        for endpoint in
            ["", "127.0.0.1:4318", "localhost", "ftp://a", "http://", "http://u:p@a:1", "http://a:x", "http://a:99999"]
        {
            assert!(message(endpoint).contains("it must be like http://127.0.0.1:4318"), "{}", message(endpoint));
        }
        let text = message("https://a");
        assert!(text.contains("`https://a`") && text.contains("Collector at http://127.0.0.1:4318"), "{text}");
        let protocol = [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
        let text = exporter(Otlp::from_environment(), &protocol).unwrap_err().to_string();
        assert!(text.contains("`grpc`") && text.contains("`http/protobuf`"), "{text}");
        made(Otlp::new("http://a"), &protocol);
    }

    #[test]
    fn how_long_and_how_often() {
        let times = |otlp, environment: &[_]| {
            let exporter = made(otlp, environment);
            (exporter.timeout.as_millis(), exporter.interval.as_millis(), exporter.complaints.len())
        };
        let variables = [("OTEL_EXPORTER_OTLP_TIMEOUT", "5"), ("OTEL_METRIC_EXPORT_INTERVAL", "7")];
        assert_eq!(times(Otlp::default(), &[]), (10_000, 60_000, 0));
        assert_eq!(times(Otlp::default(), &variables), (5, 7, 0));
        let wrong = [("OTEL_EXPORTER_OTLP_TIMEOUT", "5s"), ("OTEL_METRIC_EXPORT_INTERVAL", "0")];
        assert_eq!(times(Otlp::default(), &wrong), (10_000, 60_000, 2));
        let second = Duration::from_secs(1);
        assert_eq!(times(Otlp::default().timeout(second).interval(second), &variables), (1000, 1000, 0));
        exporter(Otlp::default().interval(Duration::ZERO), &[]).unwrap_err();

        let gzip = |otlp, value: &str| {
            let exporter = made(otlp, &[("OTEL_EXPORTER_OTLP_COMPRESSION", value)]);
            (exporter.gzip, exporter.complaints.len())
        };
        assert_eq!(
            ["gzip", "none", "", "zstd"].map(|value| gzip(Otlp::default(), value)),
            [(true, 0), (false, 0), (false, 0), (false, 1)]
        );
        assert_eq!(gzip(Otlp::default().gzip(false), "gzip"), (false, 0));
        let temporality =
            |value| made(Otlp::default(), &[("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", value)]);
        assert_eq!(["cumulative", "delta"].map(|value| temporality(value).complaints.len()), [0, 1]);
        assert!(exporter(Otlp::default(), &[("OTEL_SDK_DISABLED", "True")]).unwrap().is_none());
    }

    #[test]
    fn headers_and_attributes_are_merged() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=1, b = two%20words,nothing,=x"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=lost,host.name=h,zone=z"),
            ("OTEL_SERVICE_NAME", "other"),
        ];
        let exporter = made(Otlp::default().header("A", "mine").attribute("zone", "y"), &variables);
        assert_eq!(
            (&exporter.headers["a"], &exporter.headers["b"]),
            (&"mine".parse().unwrap(), &"two words".parse().unwrap())
        );
        let attributes = |key: &str| {
            let found = exporter.resource.attributes.iter().filter(|attribute| attribute.key == key);
            found.map(|attribute| attribute.value.clone().unwrap().value.unwrap()).collect::<Vec<_>>()
        };
        for (key, value) in [("service.name", "other"), ("host.name", "h"), ("zone", "y")] {
            assert_eq!(attributes(key), [text(value)]);
        }
        assert_eq!(attributes("process.pid"), [any_value::Value::IntValue(std::process::id().into())]);
        assert_eq!(attributes("service.instance.id").len(), 1);
        self::exporter(Otlp::default().header("a b", ""), &[]).unwrap_err();
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let pause = |text: &str| pause(&HeaderValue::from_str(text).unwrap());
        assert_eq!(pause("120"), Some(Duration::from_secs(120)));
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100));
        assert!(pause(&date).is_some_and(|pause| pause <= Duration::from_secs(100)), "{date}");
        assert_eq!(pause("soon"), None);
    }
}
