//! What a worker says of itself, as it comes.

use std::{fmt, time::Duration};

use async_container_protocol::{Call, Fields};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer, value::SeqAccessDeserializer},
};
use serde_json::{Value, json};

use crate::{
    diagnostic::{Diagnostic, Kind},
    error::Error,
    supervisor::Supervisor,
    worker::Worker,
};

/// How long after its end a profile of the allocator is given up by the worker, if nobody has stopped it.
const SPARE: Duration = Duration::from_secs(10);

/// How long a worker takes one at most, in seconds.
const LONGEST: f64 = 60.0 * 60.0;

/// A report that is being made. It is asked for piece by piece, or as a whole.
///
/// If it is dropped before its end, the worker is told to stop.
#[must_use = "a report that is dropped is given up"]
pub struct Report {
    supervisor: Supervisor,
    connection_id: String,
    diagnostic: Diagnostic,
    stage: Stage,
    path: Option<String>,
    samples: Option<u64>,
}

enum Stage {
    /// Nothing was asked for yet.
    Asked,
    /// The worker is at it.
    UnderWay(Call),
    Over,
}

/// Ends a profile that was started when nobody is there to see it to its end.
struct Profiling {
    supervisor: Supervisor,
    connection_id: String,
    is_over: bool,
}

impl Drop for Profiling {
    fn drop(&mut self) {
        if !self.is_over {
            let call =
                self.supervisor.forward_to(&self.connection_id, &json!({"do": Kind::AllocatorProfile.operation()}));
            self.supervisor.farewells.add(call);
        }
    }
}

impl Report {
    pub(crate) fn new(supervisor: &Supervisor, worker: &Worker, diagnostic: &Diagnostic) -> Self {
        Self {
            supervisor: supervisor.clone(),
            connection_id: worker.connection_id.clone(),
            diagnostic: diagnostic.clone(),
            stage: Stage::Asked,
            path: None,
            samples: None,
        }
    }

    /// One that is asked for already.
    pub(crate) fn under_way(supervisor: &Supervisor, diagnostic: Diagnostic, call: Call) -> Self {
        Self {
            supervisor: supervisor.clone(),
            connection_id: String::new(),
            diagnostic,
            stage: Stage::UnderWay(call),
            path: None,
            samples: None,
        }
    }

    /// The next piece of the report, `None` after the last. There is none at all if the worker writes it to a
    /// [file](Self::path).
    ///
    /// A document of form [`Json`](crate::Form::Json) comes as one piece, over several lines.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            match &mut self.stage {
                Stage::Asked => {
                    let call = self.begin().await?;
                    self.stage = Stage::UnderWay(call);
                }
                Stage::UnderWay(call) => match call.next().await? {
                    Some(response) => {
                        if let Some(Piece(piece)) = response.get("chunk")? {
                            return Ok(Some(piece));
                        }
                    }
                    None => {
                        let Stage::UnderWay(call) = std::mem::replace(&mut self.stage, Stage::Over) else {
                            return Ok(None);
                        };
                        return self.end(&call.finish().await?);
                    }
                },
                Stage::Over => return Ok(None),
            }
        }
    }

    async fn begin(&self) -> Result<Call, Error> {
        if self.diagnostic.kind() == Kind::AllocatorProfile {
            let lasts = self.diagnostic.lasts().unwrap_or_default();
            // If this program is killed meanwhile, nobody stops it.
            let limit = (lasts + SPARE).as_secs_f64().min(LONGEST);
            let start = json!({"do": "allocator_profile_start", "limit": limit});
            let start = self.supervisor.forward_to(&self.connection_id, &start);
            // From before the answer on: it may be on its way when this is given up.
            let mut profiling = Profiling {
                supervisor: self.supervisor.clone(),
                connection_id: self.connection_id.clone(),
                is_over: false,
            };

            if let Err(error) = start.await {
                // Another one may be under way, which is somebody else's.
                profiling.is_over = true;
                return Err(error.into());
            }

            tokio::time::sleep(lasts).await;
            profiling.is_over = true;
        }

        Ok(self.supervisor.forward_to(&self.connection_id, &Value::from(self.diagnostic.call())))
    }

    fn end(&mut self, last: &Fields) -> Result<Option<Vec<u8>>, Error> {
        self.path = last.get("path")?;
        self.samples = last.get("samples")?;
        let piece: Option<Piece> = last.get("data")?;
        Ok(piece.map(|Piece(piece)| piece))
    }

    /// The whole of it.
    pub async fn bytes(mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();

        while let Some(piece) = self.next().await? {
            bytes.extend(piece);
        }

        Ok(bytes)
    }

    /// The file to which the worker has written it, if it was asked to, once [`next`](Self::next) has given `None`.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// How many samples it is made of, if it is made of any and the worker says so, once [`next`](Self::next) has given
    /// `None` or the last piece. Zero means that there was nothing to be seen.
    pub fn samples(&self) -> Option<u64> {
        self.samples
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Report").field("diagnostic", &self.diagnostic).finish_non_exhaustive()
    }
}

/// Text, bytes, or a document.
struct Piece(Vec<u8>);

impl Piece {
    fn document(value: &Value) -> Self {
        Self(format!("{value:#}\n").into_bytes())
    }
}

impl<'de> Deserialize<'de> for Piece {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Piece;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("text, bytes or a map")
            }

            fn visit_str<E>(self, text: &str) -> Result<Piece, E> {
                Ok(Piece(text.as_bytes().to_vec()))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Piece, E> {
                Ok(Piece(bytes.to_vec()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Piece, A::Error> {
                Value::deserialize(MapAccessDeserializer::new(map)).map(|value| Piece::document(&value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Piece, A::Error> {
                Value::deserialize(SeqAccessDeserializer::new(sequence)).map(|value| Piece::document(&value))
            }
        }

        deserializer.deserialize_any(Any)
    }
}
