//! [`Application`]: the functions of a function binary, and its `main`.

use std::fmt;
use std::panic::Location;
use std::time::Duration;

use crate::call::Call;
use crate::context::Context;
use crate::error::{FunctionError, FunctionResult};
use crate::limits::ANSWERS_KEPT_FOR;
use crate::reply::Reply;
use crate::state::{Migration, StateObject, StateValue};
use crate::table::{ApplicationError, FunctionTable, Registration};
use crate::typed::{OutputEncoder, TypedInput, TypedOutput, checked};

/// The functions of a function binary.
///
/// Each worker is an OS process of its own with one thread that runs one call at a time. So a function may own what it
/// captures and change it from call to call, and several may share it through an `Rc<RefCell<…>>`: no locks. What one
/// worker keeps so, other workers of the process do not see.
///
/// ```no_run
/// use praas_function::{Application, Call, Context, FunctionError};
/// use rkyv::vec::ArchivedVec;
/// use rkyv::rend::u32_le;
///
/// fn main() {
///     let mut calls = 0_u64;
///     Application::new()
///         .function("echo", |call: &mut Call| call.reply(call.input()))
///         .function("count", move |_: &mut Call| {
///             calls += 1;
///             calls.to_string()
///         })
///         .typed("sum", |_: &Context, numbers: &ArchivedVec<u32_le>| {
///             Ok(numbers.iter().map(|number| u64::from(number.to_native())).sum::<u64>())
///         })
///         .run()
/// }
/// ```
#[derive(Default)]
pub struct Application {
    registrations: Vec<Registration>,
    migrations: Vec<Migration>,
    answers_kept_for: Option<Duration>,
}

impl Application {
    /// An application without functions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function of bytes: a closure or `fn` that takes a [`Call`] and returns a [`Reply`].
    ///
    /// The name is 1–63 bytes of `[a-z0-9._-]`; it is checked when the worker starts. A panic ends the call, not the
    /// worker: what the function owns stays as the panic left it.
    #[must_use]
    #[track_caller]
    pub fn function<F, R>(mut self, name: impl Into<String>, mut function: F) -> Self
    where
        F: FnMut(&mut Call<'_>) -> R + 'static,
        R: Reply,
    {
        self.registrations.push(Registration {
            name: name.into(),
            place: Location::caller(),
            body: Box::new(move |call| function(call).into_output(call)),
        });
        self
    }

    /// Adds a typed function: a closure or `fn` that takes a [`Context`] and an archived input, and returns an output or
    /// an error.
    ///
    /// The input is checked before the function sees it; a payload that is not a valid archive of this type is answered
    /// with [`codes::UNDECODABLE_INPUT`](crate::codes::UNDECODABLE_INPUT). It is read where it lies, without decoding.
    ///
    /// ```
    /// use praas_function::{Application, Context, FunctionResult};
    ///
    /// #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    /// struct Order {
    ///     prices: Vec<u32>,
    ///     customer: String,
    /// }
    ///
    /// #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    /// struct Bill {
    ///     total: u64,
    ///     text: String,
    /// }
    ///
    /// fn bill(_: &Context, order: &ArchivedOrder) -> FunctionResult<Bill> {
    ///     let total = order.prices.iter().map(|price| u64::from(price.to_native())).sum();
    ///     Ok(Bill { total, text: format!("{} pays {total}", order.customer) })
    /// }
    ///
    /// let application = Application::new().typed("bill", bill);
    /// # let _ = application;
    /// ```
    #[must_use]
    #[track_caller]
    pub fn typed<A, Out, F>(mut self, name: impl Into<String>, mut function: F) -> Self
    where
        A: TypedInput,
        Out: TypedOutput,
        F: FnMut(&Context<'_>, &A) -> Result<Out, FunctionError> + 'static,
    {
        let mut encoder = OutputEncoder::default();
        let body = move |call: &mut Call<'_>| -> FunctionResult {
            let output = function(&call.context(), checked(call.input())?)?;
            encoder.answer(call, &output)
        };
        self.registrations.push(Registration { name: name.into(), place: Location::caller(), body: Box::new(body) });
        self
    }

    /// Says how objects of an older schema become objects of a newer one. It happens when a function looks at such an object by
    /// its newer type, once an object; several steps follow one another. An object of a schema that nothing leads from is
    /// refused with [`StateError::WrongSchema`](crate::StateError::WrongSchema) and stays as it is.
    ///
    /// ```
    /// use praas_function::{Application, StateType};
    ///
    /// #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    /// struct OldNote {
    ///     text: String,
    /// }
    ///
    /// #[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
    /// struct Note {
    ///     text: String,
    ///     tags: Vec<String>,
    /// }
    ///
    /// impl StateType for OldNote {
    ///     const NAME: &'static str = "note";
    ///     const SCHEMA_VERSION: u32 = 1;
    /// }
    ///
    /// impl StateType for Note {
    ///     const NAME: &'static str = "note";
    ///     const SCHEMA_VERSION: u32 = 2;
    /// }
    ///
    /// let application = Application::new()
    ///     .function("noop", |_| ())
    ///     .migrate(|old: OldNote| Note { text: old.text, tags: Vec::new() });
    /// # let _ = application;
    /// ```
    #[must_use]
    pub fn migrate<Old, New>(mut self, change: impl Fn(Old) -> New + 'static) -> Self
    where
        Old: StateObject,
        New: StateValue,
    {
        self.migrations.push(Migration::new(change));
        self
    }

    /// How long the answers of calls with idempotency keys are remembered: 10 minutes unless this says otherwise. Within that time a
    /// repeated call gets the stored answer, after it the call runs again. Stored answers take room of the state, at most a
    /// quarter of it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use praas_function::Application;
    ///
    /// let application = Application::new().function("noop", |_| ()).keep_answers_for(Duration::from_secs(3600));
    /// # let _ = application;
    /// ```
    #[must_use]
    pub fn keep_answers_for(mut self, time: Duration) -> Self {
        self.answers_kept_for = Some(time);
        self
    }

    /// How long that is.
    pub(crate) fn answers_kept_for(&self) -> Duration {
        self.answers_kept_for.unwrap_or(ANSWERS_KEPT_FOR)
    }

    /// Serves calls until the server ends this worker: the `main` of a function binary. It does not return.
    ///
    /// Started by hand, without a server, it prints how the binary is used and exits with code 2. An application that is
    /// wrong in itself (two functions of one name, say) is reported and exits with code 1.
    pub fn run(self) -> ! {
        crate::runtime::run(self)
    }

    pub(crate) fn into_parts(self) -> Result<(FunctionTable, Vec<Migration>), ApplicationError> {
        Ok((FunctionTable::new(self.registrations)?, self.migrations))
    }
}

impl fmt::Debug for Application {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.registrations.iter().map(|registration| &registration.name);
        formatter.debug_struct("Application").field("functions", &names.collect::<Vec<_>>()).finish()
    }
}
