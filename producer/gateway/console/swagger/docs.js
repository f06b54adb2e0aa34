// The description of the HTTP API, shown by the vendored Swagger UI, whose dark colours hang on a class.
document.documentElement.classList.toggle("dark-mode", matchMedia("(prefers-color-scheme: dark)").matches);
SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger",
  deepLinking: true,
  validatorUrl: null, // asks nobody elsewhere
});
