//! Integration tests: the real program and the public API, over real sockets. Each file tests one
//! subject. The tests use no internals except the names of the counters.
//!
//! The number in a test named `pitfall_NN_…` refers to the table of known pitfalls in
//! `tests/simulation/pitfalls.rs`.

mod access_log;
mod client_disconnects;
mod deploy;
mod drain_in_services;
mod embedding;
mod event_streams;
mod examples;
mod file_bodies;
mod graceful_shutdown;
mod hostile_applications;
mod http_exchanges;
mod inherited_state;
mod interim_responses;
mod limit_extremes;
mod limits;
mod malformed_requests;
mod panics;
mod python_access_log;
mod python_applications;
mod python_forwarded;
mod python_kills;
mod python_life;
mod python_mistakes;
mod python_privileges;
mod python_reload;
mod python_replacement;
mod python_response_memory;
mod python_settings;
mod python_sharing;
mod python_views;
mod python_zygote;
mod real_clients;
mod receive_memory;
mod request_bodies;
mod request_trailers;
mod resources;
mod response_memory;
mod sandbox;
mod seqpacket;
mod serve_changed_files;
mod serve_confinement;
mod serve_digests;
mod serve_replaced_directory;
mod serve_requests;
mod stalled_server;
mod stalled_stderr;
mod startup;
mod streamed_bodies;
mod support;
mod upgrade;
mod wheel;
mod write_signals;
