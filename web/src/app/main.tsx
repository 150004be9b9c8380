import { CSPProvider } from "@base-ui/react/csp-provider";
import { TransportProvider } from "@connectrpc/connect-query";
import { QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { preferred, speak } from "../i18n";
import { queryClient } from "../rpc/client";
import { begin, transport } from "../rpc/session";
import { ahead, App } from "./app";
import { applyTheme } from "./preferences";

applyTheme();
void begin();
ahead(location.pathname);
await speak(preferred());

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      {/* The page's policy allows no style elements. */}
      <CSPProvider disableStyleElements>
        <TransportProvider transport={transport}>
          <QueryClientProvider client={queryClient}>
            <App />
          </QueryClientProvider>
        </TransportProvider>
      </CSPProvider>
    </StrictMode>,
  );
}
