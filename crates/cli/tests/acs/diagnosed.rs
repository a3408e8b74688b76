//! A worker that answers diagnostics as the protocol says, with reports that can be told apart.

use async_container_protocol::{Failure, Fields, Responder, class};
use serde::Serialize;
use serde_json::json;

/// The longest piece of a dump.
pub const CHUNK: usize = 64 << 10;

/// How many pieces a dump has.
pub const CHUNKS: usize = 5;

/// Bytes, which are not an array of numbers.
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

#[derive(Serialize)]
struct Chunk {
    chunk: Bytes,
}

/// What a profile would be: no text at all.
pub fn profile() -> Vec<u8> {
    (0..=255).collect()
}

/// Piece `number` of a dump.
pub fn piece(number: usize) -> Vec<u8> {
    vec![u8::try_from(number).unwrap() | 0x80; CHUNK]
}

pub async fn answer(operation: &Fields, responder: Responder) {
    let format: Option<String> = operation.get("format").unwrap();
    let path: Option<String> = operation.get("path").unwrap();
    let name = operation.operation().unwrap_or_default();

    if let Some(path) = path {
        responder.finish(&json!({"path": format!("/worker/{path}")}));
        return;
    }

    match (name, format.as_deref()) {
        ("memory_dump", _) => {
            for number in 0..CHUNKS {
                if responder.send(&Chunk { chunk: Bytes(piece(number)) }).await.is_err() {
                    return;
                }
            }
            responder.finish(&());
        }
        ("allocator_profile_start", _) => {
            responder.finish(&json!({"started": true}));
        }
        (_, Some("json")) => {
            responder.finish(&json!({"data": {"operation": name, "total": {"bytes": 5}}}));
        }
        (_, Some("pprof")) => {
            responder.finish_fields(&Fields::empty().with("data", &Bytes(profile())).unwrap());
        }
        ("memory_sample" | "thread_dump" | "scheduler_dump" | "allocator_profile_stop" | "cpu_profile", form) => {
            responder.finish(&json!({"data": format!("{name} as {}\nmain;work 7\n", form.unwrap_or("-"))}));
        }
        _ => {
            responder.fail(Failure::new(class::UNKNOWN_OPERATION, format!("there is no operation '{name}'")));
        }
    }
}
