//! Every kind of candidate, honest and hostile, run through a real executor.
#![allow(clippy::unwrap_used)]

mod brought;
mod calls;
mod faults;
mod fixtures;
mod honest;
mod host;
mod hostile;
mod inputs;
mod lab;
mod methods;
mod order;
mod wrong;
