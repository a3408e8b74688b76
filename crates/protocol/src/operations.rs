//! A table of operations by name.

use std::{
    borrow::Borrow,
    fmt,
    hash::{Hash, Hasher},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    failure::Failure,
    handler::{BoxFuture, Handler, Request, Responder, unknown},
    hash::Table,
};

type Operation = Box<dyn Fn(Request, Responder) -> Option<BoxFuture> + Send + Sync>;

/// Operations by name. Others fail with class `UnknownOperation`.
///
/// ```
/// use std::time::Duration;
/// use async_container_protocol::{Failure, Fields, Operations, Request};
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Wait { seconds: f64 }
///
/// let operations = Operations::new()
///     .operation("echo", |request: Request| async move { Ok(request.into_fields()) })
///     .typed("wait", |wait: Wait| async move {
///         tokio::time::sleep(Duration::from_secs_f64(wait.seconds)).await;
///         Ok(())
///     })
///     .streaming("count", |request, responder| async move {
///         let Ok(Some(to)) = request.get::<u64>("to") else {
///             responder.fail(Failure::invalid_parameters("'to' has to be a number"));
///             return;
///         };
///
///         for number in 1..=to {
///             if responder.send(&Fields::empty().with("number", &number).unwrap()).await.is_err() {
///                 return;
///             }
///         }
///
///         responder.finish(&());
///     });
/// ```
#[derive(Default)]
pub struct Operations {
    table: Table<Name, Operation>,
}

/// The name of an operation, which is looked up by its bytes, as it lies in a message.
#[derive(PartialEq, Eq)]
struct Name(String);

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
    }
}

impl Operations {
    /// No operations.
    pub fn new() -> Self {
        Self::default()
    }

    fn insert(mut self, name: impl Into<String>, operation: Operation) -> Self {
        self.table.insert(Name(name.into()), operation);
        self
    }

    /// An operation that gives one answer. If one of that name is there, it is replaced.
    pub fn operation<F, R, T>(self, name: impl Into<String>, operation: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Serialize + 'static,
    {
        self.insert(
            name,
            Box::new(move |request, mut responder| {
                let future = operation(request);
                Some(Box::pin(async move {
                    // Not held over a wait, so that `T` needs not be `Send`.
                    responder.conclude(future.await);
                }))
            }),
        )
    }

    /// An operation whose parameters are a struct. If one is missing or of another type, the call fails with class
    /// `InvalidParameters` and its name.
    pub fn typed<P, F, R, T>(self, name: impl Into<String>, operation: F) -> Self
    where
        P: DeserializeOwned,
        F: Fn(P) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Serialize + 'static,
    {
        self.insert(
            name,
            Box::new(move |request, mut responder| {
                let future = match request.deserialize::<P>() {
                    Ok(parameters) => operation(parameters),
                    Err(failure) => {
                        responder.fail(failure);
                        return None;
                    }
                };
                Some(Box::pin(async move {
                    responder.conclude(future.await);
                }))
            }),
        )
    }

    /// An operation that answers without waiting: the cheapest kind.
    pub fn immediate<F, T>(self, name: impl Into<String>, operation: F) -> Self
    where
        F: Fn(&Request) -> Result<T, Failure> + Send + Sync + 'static,
        T: Serialize + 'static,
    {
        self.insert(
            name,
            Box::new(move |request, mut responder| {
                responder.conclude(operation(&request));
                None
            }),
        )
    }

    /// An operation that answers by itself, with as many responses as it likes.
    pub fn streaming<F, R>(self, name: impl Into<String>, operation: F) -> Self
    where
        F: Fn(Request, Responder) -> R + Send + Sync + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.insert(name, Box::new(move |request, responder| Some(Box::pin(operation(request, responder)))))
    }

    /// An operation with a handler of its own.
    pub fn handler(self, name: impl Into<String>, handler: impl Handler) -> Self {
        self.insert(name, Box::new(move |request, responder| handler.call(request, responder)))
    }

    /// These operations, and those of `other` where there is none of the same name.
    pub fn or(mut self, other: Self) -> Self {
        for (name, operation) in other.table {
            self.table.entry(name).or_insert(operation);
        }

        self
    }

    /// Whether there is one of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.table.contains_key(name.as_bytes())
    }

    /// Their names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.table.keys().map(|name| name.0.as_str())
    }
}

impl Handler for Operations {
    fn call(&self, request: Request, responder: Responder) -> Option<BoxFuture> {
        match self.table.get(request.operation_bytes()) {
            Some(operation) => operation(request, responder),
            None => {
                responder.fail(unknown(request.operation()));
                None
            }
        }
    }
}

impl fmt::Debug for Operations {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.names()).finish()
    }
}
