//! A web server in ten lines: `cargo run --release --example hello`, then open
//! <http://127.0.0.1:8000/>. The address is an optional argument.

fn main() -> coring::Result<()> {
    let address = std::env::args().nth(1);
    coring::Server::builder()
        .bind(address.unwrap_or_else(|| "127.0.0.1:8000".to_owned()))
        .serve(|| {
            async |request: coring::Request| match request.path() {
                "/" => coring::Response::html("<b>hello world</b>"),
                _ => coring::Response::not_found("<h1>Not Found</h1>"),
            }
        })
}
