//! Shapes of what is text in JSON, for HQ's description of its API.

use std::borrow::Cow;

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ArrayBuilder, ObjectBuilder, Ref, RefOr, Schema,
        schema::{KnownFormat, SchemaFormat, SchemaType, Type},
    },
};

use crate::{Base64, Hex, Page};

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

/// Each list's page has a name of its own.
impl<T: ToSchema> PartialSchema for Page<T> {
    fn schema() -> RefOr<Schema> {
        let rows = ArrayBuilder::new()
            .items(Ref::from_schema_name(T::name()))
            .description(Some("In the order that was asked for."));
        let total = ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::Integer))
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
            .minimum(Some(0))
            .description(Some(
                "How many rows all pages have together; 10001 means more. Only the first page of a list that is counted says it.",
            ));
        let next = ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .description(Some(
                "Goes into `after` for the next page. The last page has none.",
            ));
        ObjectBuilder::new()
            .property("rows", rows)
            .required("rows")
            .property("total", total)
            .property("next", next)
            .into()
    }
}

impl<T: ToSchema> ToSchema for Page<T> {
    fn name() -> Cow<'static, str> {
        format!("{}Page", T::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        T::schemas(schemas);
        schemas.push((T::name().into_owned(), T::schema()));
    }
}
