//! What goes along with a call, of any type.

use std::{fmt, sync::Arc};

use serde::Serialize;

type Value = dyn erased_serde::Serialize + Send + Sync;

/// The parameters of an operation, or none.
///
/// Those of any type cannot be compared: they are equal to none but their own clones.
#[derive(Clone, Default)]
pub(crate) struct Parameters(Option<Arc<Value>>);

impl Parameters {
    pub(crate) fn new(parameters: impl Serialize + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(parameters)))
    }

    pub(crate) fn get(&self) -> Option<&Value> {
        self.0.as_deref()
    }
}

impl PartialEq for Parameters {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Eq for Parameters {}

impl fmt::Debug for Parameters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "some" } else { "none" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_equal_to_their_clones_alone() {
        let (none, some) = (Parameters::default(), Parameters::new(1));
        assert_eq!(none, Parameters::default());
        assert_eq!(some, some.clone());
        assert_ne!(some, Parameters::new(1));
        assert_ne!(some, none);
        assert_ne!(none, some);
    }
}
