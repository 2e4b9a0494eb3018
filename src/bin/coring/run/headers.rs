//! A service that adds fields to the responses of an application.

use std::rc::Rc;

use ::http::{HeaderName, HeaderValue};
use coring::python::Python;
use coring::{Request, Response, Service};

/// An application, and the fields that each of its responses gets.
#[derive(Debug)]
pub(crate) struct WithHeaders {
    application: Python,
    fields: Rc<[(HeaderName, HeaderValue)]>,
}

impl WithHeaders {
    pub(crate) fn new(application: Python, fields: &[(HeaderName, HeaderValue)]) -> Self {
        Self {
            application,
            fields: fields.into(),
        }
    }
}

impl Service for WithHeaders {
    async fn call(&self, request: Request) -> Response {
        let response = self.application.call(request).await;
        let fields = self.fields.iter().cloned();
        fields.fold(response, |response, (name, value)| {
            response.append_header(name, value)
        })
    }
}
