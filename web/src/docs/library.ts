import SwaggerUI from "swagger-ui-dist/swagger-ui-es-bundle.js";
import "swagger-ui-dist/swagger-ui.css";
import { plain } from "./plain";

/** value returns what is written in a field of the bar. It is in the memory of the page alone. */
function value(id: string): string {
  const field = document.getElementById(id);
  return field instanceof HTMLInputElement ? field.value.trim() : "";
}

// The document comes from this server, and so do the replies that are tried out: the page can reach nothing else.
SwaggerUI({
  domNode: document.getElementById("docs"),
  url: "/openapi.yaml",
  deepLinking: true,
  docExpansion: matchMedia("(max-width: 700px)").matches ? "none" : "list", // On a phone the whole list is long to draw and to scroll.
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  validatorUrl: null,
  plugins: [plain],
  requestInterceptor: (request: { headers: Record<string, string> }) => {
    if (value("key")) request.headers["Authorization"] = `Bearer ${value("key")}`;
    if (value("tenant")) request.headers["X-Tenant"] = value("tenant");
    return request;
  },
});
