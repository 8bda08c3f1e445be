//! Shapes of what is text in JSON, for HQ's description of its API.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::SchemaType, schema::Type},
};

use crate::{Base64, Hex};

fn text(description: &str, pattern: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .description(Some(description))
        .pattern(Some(pattern))
        .into()
}

impl<const N: usize> PartialSchema for Hex<N> {
    fn schema() -> RefOr<Schema> {
        text(
            &format!("{N} bytes in hexadecimal"),
            &format!("^[0-9a-f]{{{}}}$", 2 * N),
        )
    }
}

impl<const N: usize> ToSchema for Hex<N> {
    fn name() -> Cow<'static, str> {
        format!("Hex{N}").into()
    }
}

impl PartialSchema for Base64 {
    fn schema() -> RefOr<Schema> {
        text("bytes in base64", "^[A-Za-z0-9+/]*={0,2}$")
    }
}

impl ToSchema for Base64 {}
