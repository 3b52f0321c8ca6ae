//! The functions of the application `hello`.
#![forbid(unsafe_code)]

use praas_function::{Application, Call, Context, FunctionError, FunctionResult};
use rkyv::rend::f64_le;
use rkyv::vec::ArchivedVec;

/// The application: every worker of its processes makes one.
#[must_use]
pub fn application() -> Application {
    Application::new().function("greet", greet).typed("mean", mean)
}

/// Bytes in, bytes out.
fn greet(call: &mut Call) -> FunctionResult<String> {
    Ok(format!("Hello, {}!", std::str::from_utf8(call.input())?))
}

/// Rust values in and out; the numbers are read where the caller wrote them.
fn mean(_: &Context, numbers: &ArchivedVec<f64_le>) -> FunctionResult<f64> {
    let count = u32::try_from(numbers.len())?;
    if count == 0 {
        return Err(FunctionError::new(1, "there is no mean of no numbers"));
    }
    Ok(numbers.iter().map(|number| number.to_native()).sum::<f64>() / f64::from(count))
}
