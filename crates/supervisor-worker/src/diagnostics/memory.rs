//! `memory_sample` and `memory_dump`.

use std::time::Duration;

use async_container_diagnostics::{
    memory::{Dump, MemoryError, Mode, Options, Sampling},
    output::NewFile,
    report::ReportError,
};
use async_container_protocol::{Failure, Request, Responder};
use serde::{Serialize, Serializer};
use tokio::sync::mpsc;

use super::{
    apart,
    delivery::{self, Answer, Delivery, Format, Report},
};

/// The longest sample, in seconds: a day.
const LONGEST: f64 = 24.0 * 60.0 * 60.0;

/// Takes `duration`, in seconds, and beside where the sample is to go `mode`, `sampled` or `full`, and `rate`, in bytes, which
/// count unless something is recorded already. Default is what is recorded, or else one in 512 KiB.
///
/// If the call is cancelled, sampling ends at once.
pub(super) async fn sample(request: Request) -> Result<Answer, Failure> {
    let formats = [Format::Json, Format::Text, Format::Pprof, Format::Folded, Format::Svg];
    let delivery = Delivery::of(&request, &formats)?;
    let duration = request.require::<f64>("duration")?;

    if !(duration > 0.0 && duration <= LONGEST) {
        return Err(Failure::invalid_parameters(
            "'duration' has to be a number of seconds, more than 0 and up to a day",
        ));
    }

    let options = options(&request)?;
    let sampling = apart(move || Sampling::start(&options).map_err(failed)).await?;
    tokio::time::sleep(Duration::from_secs_f64(duration)).await;
    apart(move || {
        let sample = sampling.finish().map_err(failed)?;
        let report = match delivery.format {
            Format::Json => delivery.structured(&sample)?,
            format => of_bytes(format, sample.write(format, Vec::new()).map_err(not_written)?)?,
        };
        delivery.deliver(report)
    })
    .await
}

fn options(request: &Request) -> Result<Options, Failure> {
    let rate = request.get::<u64>("rate")?;
    let largest = Mode::LARGEST_RATE;
    let mode = match (request.get::<String>("mode")?.as_deref(), rate) {
        (None, None) => return Ok(Options::new()),
        (Some("full"), None) => Mode::Full,
        (Some("sampled"), None) => Mode::SAMPLED,
        (None | Some("sampled"), Some(rate)) if (1..=largest).contains(&rate) => Mode::Sampled { rate },
        (Some("full"), Some(_)) => {
            return Err(Failure::invalid_parameters("'rate' means nothing where 'mode' is 'full'"));
        }
        (None | Some("sampled"), Some(rate)) => {
            let message = format!("'rate' is {rate}, and has to be a number of bytes, from 1 to {largest}");
            return Err(Failure::invalid_parameters(message));
        }
        (Some(mode), _) => {
            let message = format!("'mode' is '{mode}', and has to be 'sampled' or 'full'");
            return Err(Failure::invalid_parameters(message));
        }
    };
    Ok(Options::new().mode(mode))
}

/// A piece of a dump.
#[derive(Serialize)]
struct Piece {
    #[serde(serialize_with = "chunk")]
    chunk: (Format, Vec<u8>),
}

fn chunk<S: Serializer>((format, bytes): &(Format, Vec<u8>), serializer: S) -> Result<S::Ok, S::Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) if format.is_text() => serializer.serialize_str(text),
        _ => serializer.serialize_bytes(bytes),
    }
}

/// Where a dump is, if it was written to a file.
#[derive(Serialize)]
struct Written {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<std::path::PathBuf>,
}

/// Without `path`, the dump is streamed. The next piece is made when the one before it was taken, so a caller who is slow, or
/// gone, costs nothing.
pub(super) async fn dump(request: Request, responder: Responder) {
    let answer = dumped(&request, &responder).await;
    responder.answer(answer);
}

async fn dumped(request: &Request, responder: &Responder) -> Result<Written, Failure> {
    let formats = [Format::Pprof, Format::Json, Format::Text, Format::Folded, Format::Svg, Format::Heap];
    let delivery = Delivery::of(request, &formats)?;
    let format = delivery.format;

    if let Some(path) = delivery.path {
        return apart(move || {
            let dump = begin(format)?;
            let mut file = NewFile::create(path).map_err(delivery::refused)?;

            match dump.write(format, &mut file) {
                // What failed is remembered by the file, which knows better what became of it.
                Ok(_) | Err(ReportError::Write(_)) => {}
                Err(error) => return Err(not_written(error)),
            }

            let path = file.finish().map_err(delivery::refused)?;
            Ok(Written { path: Some(std::path::absolute(&path).unwrap_or(path)) })
        })
        .await;
    }

    let (sender, mut pieces) = mpsc::channel(1);
    let making = tokio::spawn(apart(move || {
        let mut rest = Vec::new();

        for bytes in begin(format)?.chunks(format).map_err(not_written)? {
            rest.append(&mut bytes?);
            // A character that is cut in two waits for its other half.
            let whole = if format.is_text() { whole_characters(&rest) } else { rest.len() };
            let after = rest.split_off(whole);
            let piece = std::mem::replace(&mut rest, after);

            if !piece.is_empty() && sender.blocking_send(piece).is_err() {
                break;
            }
        }

        if !rest.is_empty() {
            // Nobody waits any more if this fails.
            let _ = sender.blocking_send(rest);
        }

        Ok(())
    }));

    while let Some(piece) = pieces.recv().await {
        if responder.send(&Piece { chunk: (format, piece) }).await.is_err() {
            break;
        }
    }

    drop(pieces);
    making.await.map_err(Failure::from)??;
    Ok(Written { path: None })
}

fn begin(format: Format) -> Result<Dump, Failure> {
    let dump = if format == Format::Heap { Dump::of_jemalloc() } else { Dump::begin() };
    dump.map_err(failed)
}

/// How many of these bytes are whole characters, up to the longest piece.
fn whole_characters(bytes: &[u8]) -> usize {
    let bytes = &bytes[..bytes.len().min(Dump::CHUNK)];

    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        Err(error) => error.valid_up_to(),
    }
}

fn of_bytes(format: Format, bytes: Vec<u8>) -> Result<Report, Failure> {
    if !format.is_text() {
        return Ok(Report::Bytes(bytes));
    }

    Ok(Report::Text(String::from_utf8(bytes)?))
}

/// What the program lacks is said as such, and what to do about it.
pub(super) fn failed(error: MemoryError) -> Failure {
    match error {
        MemoryError::NotInstalled
        | MemoryError::NotRecording
        | MemoryError::Misunderstood
        | MemoryError::NoJemalloc
        | MemoryError::NotJemalloc
        | MemoryError::NotProfiled => Failure::not_supported(error.to_string()),
        error => Failure::from(error),
    }
}

fn not_written(error: ReportError) -> Failure {
    match error {
        ReportError::Feature { .. } => Failure::not_supported(error.to_string()),
        error => Failure::from(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut() {
        assert_eq!(whole_characters("aé".as_bytes()), 3);
        assert_eq!(whole_characters(&"aé".as_bytes()[..2]), 1);
        assert_eq!(whole_characters(&vec![b'a'; Dump::CHUNK + 10]), Dump::CHUNK);
    }
}
