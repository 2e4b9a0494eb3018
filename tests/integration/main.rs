//! The program as its users meet it: the real binary, real sockets, real clients. One file for
//! each subject. It refuses to know how coring works; what a counter is called is as far as it
//! looks inside.

mod access_log;
mod answer_memory;
mod basics;
mod bodies;
mod clients;
mod deadlines;
mod deploy;
mod draining;
mod embedding;
mod event_streams;
mod examples;
mod extremes;
mod faults;
mod files;
mod generated;
mod gone;
mod inherited;
mod interim;
mod lifecycle;
mod limits;
mod messages;
mod panics;
mod receive_memory;
mod resources;
mod sandbox;
mod serve;
mod serve_bodies;
mod serve_changes;
mod serve_replaced;
mod signals;
mod startup;
mod support;
mod trailers;
mod upgrade;
