//! HQ's description of its own API (OpenAPI 3.1), made from the table of routes and the types that the handlers take and give.
//!
//! A handler's shape is read from its signature, so a description that is not true does not compile.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        ComponentsBuilder, ContentBuilder, HttpMethod, InfoBuilder, ObjectBuilder, OpenApi,
        OpenApiBuilder, PathItem, Paths, Ref, RefOr, Required, ResponseBuilder, Schema,
        path::{OperationBuilder, Parameter, ParameterBuilder, ParameterIn},
        request_body::{RequestBody, RequestBodyBuilder},
        schema::{SchemaType, Type},
        security::{
            ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
        },
    },
};
use web_api::ApiError;

use crate::{
    access::{Access, Bounds, SESSION_COOKIE},
    audit::Lines,
    error::Refusal,
    input::{Asked, Input, InputOrNothing, Named, Raw},
    listed::{self, Listed, Sort},
    live::Live,
    routes::{Route, routes},
    sheets::Sheet,
};

const BYTES: &str = "application/octet-stream";

/// What a route takes and gives.
#[derive(Default)]
pub(crate) struct Shape {
    body: Option<RequestBody>,
    query: Vec<Parameter>,
    status: u16,
    answer: Option<(&'static str, RefOr<Schema>)>,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Shape {
    /// A type by its name; a list, which has none of its own, and whatever has no form, as it is.
    fn reference<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let schema = T::schema();
        T::schemas(&mut self.schemas);
        let has_name = matches!(schema, RefOr::T(Schema::Object(_) | Schema::OneOf(_)))
            && T::name() != "Value";
        if !has_name {
            return schema;
        }
        self.schemas.push((T::name().into_owned(), schema));
        Ref::from_schema_name(T::name()).into()
    }

    fn takes(&mut self, kind: &str, schema: RefOr<Schema>, required: bool) {
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let body = RequestBodyBuilder::new()
            .content(kind, content)
            .required(Some(match required {
                true => Required::True,
                false => Required::False,
            }));
        self.body = Some(body.build());
    }
}

fn bytes() -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .content_media_type(BYTES)
        .into()
}

/// A handler's argument.
pub(crate) trait Asks {
    fn ask(_: &mut Shape) {}
}

impl<T> Asks for State<T> {}
impl<T> Asks for Extension<T> {}
impl Asks for HeaderMap {}
// the path itself says it
impl Asks for Named {}

impl Asks for Raw {
    fn ask(shape: &mut Shape) {
        shape.takes(BYTES, bytes(), true);
    }
}

impl<T: ToSchema> Asks for Input<T> {
    fn ask(shape: &mut Shape) {
        let schema = shape.reference::<T>();
        shape.takes("application/json", schema, true);
    }
}

impl<T: ToSchema> Asks for InputOrNothing<T> {
    fn ask(shape: &mut Shape) {
        let schema = shape.reference::<T>();
        shape.takes("application/json", schema, false);
    }
}

impl<T: IntoParams> Asks for Asked<T> {
    fn ask(shape: &mut Shape) {
        shape
            .query
            .extend(T::into_params(|| Some(ParameterIn::Query)));
    }
}

impl<S: Sort, F: IntoParams> Asks for Listed<S, F> {
    fn ask(shape: &mut Shape) {
        shape.query.extend(listed::parameters::<S, F>());
    }
}

/// What a handler gives.
pub(crate) trait Gives {
    fn give(shape: &mut Shape);
}

impl<T: Gives> Gives for Result<T, Refusal> {
    fn give(shape: &mut Shape) {
        T::give(shape);
    }
}

impl<T: ToSchema> Gives for Json<T> {
    fn give(shape: &mut Shape) {
        shape.status = 200;
        let schema = shape.reference::<T>();
        shape.answer = Some(("application/json", schema));
    }
}

/// Bytes, or what a file is.
impl Gives for Response {
    fn give(shape: &mut Shape) {
        shape.status = 200;
        shape.answer = Some((BYTES, bytes()));
    }
}

impl Gives for Lines {
    fn give(shape: &mut Shape) {
        shape.status = 200;
        shape.answer = Some((Self::KIND, bytes()));
    }
}

impl Gives for Sheet {
    fn give(shape: &mut Shape) {
        shape.status = 200;
        shape.answer = Some((Self::KIND, bytes()));
    }
}

impl Gives for Live {
    fn give(shape: &mut Shape) {
        shape.status = 200;
        shape.answer = Some((Self::KIND, bytes()));
    }
}

/// Handlers that give a status give this one.
impl Gives for StatusCode {
    fn give(shape: &mut Shape) {
        shape.status = StatusCode::NO_CONTENT.as_u16();
    }
}

/// The same, with a session's cookie.
impl Gives for crate::people::sign_in::Cookie {
    fn give(shape: &mut Shape) {
        shape.status = StatusCode::NO_CONTENT.as_u16();
    }
}

/// A handler whose arguments and answer are known.
pub(crate) trait Described<Arguments> {
    fn shape() -> Shape;
}

macro_rules! described {
    ($($argument:ident),*) => {
        impl<F, Future, Answer, $($argument),*> Described<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Future,
            Future: std::future::Future<Output = Answer>,
            Answer: Gives,
            $($argument: Asks,)*
        {
            fn shape() -> Shape {
                let mut shape = Shape::default();
                $($argument::ask(&mut shape);)*
                Answer::give(&mut shape);
                shape
            }
        }
    };
}

described!();
described!(A);
described!(A, B);
described!(A, B, C);
described!(A, B, C, D);

fn operation(route: &Route, shape: Shape) -> OperationBuilder {
    let (needs, securities) = match route.access {
        Access::Person(right, bounds) => {
            let right = format!("{right:?}").to_lowercase();
            let bounds = match bounds {
                Bounds::Sites => "of sites within the caller's scope",
                Bounds::Chain => "and a scope of all sites",
            };
            let needs = format!("Needs the right to {right}, {bounds}.");
            let secret = |name: &str| SecurityRequirement::new::<_, _, &str>(name, []);
            (needs, vec![secret("session"), secret("token")])
        }
        _ => ("Anybody may.".into(), vec![]),
    };
    let mut answer = ResponseBuilder::new().description("done");
    if let Some((kind, schema)) = shape.answer {
        answer = answer.content(kind, ContentBuilder::new().schema(Some(schema)).build());
    }
    let refusal = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(ApiError::name())))
        .build();
    let refusal = ResponseBuilder::new()
        .description("refused: one sentence says why")
        .content("application/json", refusal);
    let mut made = OperationBuilder::new()
        .operation_id(Some(route.name))
        .summary(Some(route.summary))
        .description(Some(needs))
        .request_body(shape.body)
        .response(shape.status.to_string(), answer.build())
        .response("default", refusal.build())
        .securities(Some(securities));
    let variables = route.path.split('{').skip(1);
    for name in variables.filter_map(|part| part.split('}').next()) {
        let text = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
        let variable = ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(text));
        made = made.parameter(variable);
    }
    for parameter in shape.query {
        made = made.parameter(parameter);
    }
    made
}

fn method(route: &Route) -> HttpMethod {
    match route.method.as_str() {
        "POST" => HttpMethod::Post,
        "PUT" => HttpMethod::Put,
        "PATCH" => HttpMethod::Patch,
        "DELETE" => HttpMethod::Delete,
        _ => HttpMethod::Get,
    }
}

/// What people and their tools may ask. What nodes and agents ask is theirs alone.
pub(crate) fn document() -> OpenApi {
    let mut paths = Paths::new();
    let mut components = ComponentsBuilder::new()
        .schema(
            ApiError::name(),
            <ApiError as utoipa::PartialSchema>::schema(),
        )
        .security_scheme(
            "session",
            SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(SESSION_COOKIE))),
        )
        .security_scheme(
            "token",
            SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
        );
    for route in routes() {
        let Some(shape) = route.shape.filter(|_| route.path.starts_with("/api/")) else {
            continue;
        };
        let mut shape = shape();
        components = components.schemas_from_iter(std::mem::take(&mut shape.schemas));
        let item = PathItem::new(method(&route), operation(&route, shape));
        match paths.paths.get_mut(route.path) {
            Some(known) => known.merge_operations(item),
            None => {
                paths.paths.insert(route.path.to_owned(), item);
            }
        }
    }
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Lamplighter HQ")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "What people, pages and scripts ask of HQ. See docs/protocol/hq-api.md.",
                )),
        )
        .paths(paths)
        .components(Some(components.build()))
        .build()
}

pub(crate) async fn show() -> Result<Json<serde_json::Value>, Refusal> {
    Ok(Json(serde_json::to_value(document())?))
}
