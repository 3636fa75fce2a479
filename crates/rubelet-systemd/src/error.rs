//! What can go wrong on the bus.

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No message bus is there, or it lets nobody in.
    #[error("no system message bus answers: {problem}")]
    NoBus {
        /// What was tried and failed.
        problem: String,
    },
    /// The other side refused, with an error of its own.
    #[error("{call} was refused: {name}: {message}")]
    Refused {
        /// The method.
        call: &'static str,
        /// Name of the error, for example `org.freedesktop.systemd1.NoSuchUnit`.
        name: String,
        /// What it said.
        message: String,
    },
    /// No answer came.
    #[error("{call} was not answered within {seconds} s")]
    Silent {
        /// The method.
        call: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A job of systemd did not end as it should.
    #[error("{unit} was not {wanted}: systemd says {result:?}")]
    Job {
        /// The unit.
        unit: String,
        /// What it was to be: `started` or `stopped`.
        wanted: &'static str,
        /// Result of the job, for example `failed` or `dependency`.
        result: String,
    },
    /// The connection broke, or an answer was not what it has to be.
    #[error("{call} failed: {problem}")]
    Broken {
        /// The method.
        call: &'static str,
        /// What happened.
        problem: String,
    },
}

impl BusError {
    pub(crate) fn of(call: &'static str, error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, message, _) => {
                Self::Refused { call, name: name.to_string(), message: message.unwrap_or_default() }
            }
            other => Self::Broken { call, problem: other.to_string() },
        }
    }

    pub(crate) fn no_bus(error: Self) -> Self {
        let problem = match error {
            Self::Broken { problem, .. } => problem,
            other => other.to_string(),
        };
        Self::NoBus { problem }
    }

    /// Whether the other side refused with this error.
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name == wanted)
    }
}
