type Component = (props: unknown) => unknown;

interface System {
  React: { createElement: (kind: unknown, props: unknown, ...children: unknown[]) => unknown; Fragment: unknown };
}

/** plain is a plugin of Swagger UI: without it, the page has faults for those who hear it, and is slow to come. */
export function plain({ React: { createElement, Fragment } }: System) {
  return {
    wrapComponents: {
      // The one server is this one: there is nothing to choose, and what chooses has no name.
      ServersContainer: () => () => null,
      // A link in a button is neither. The address of an operation is in the address bar once it is open.
      DeepLink: () => (props: { text: string }) => createElement("span", null, props.text),
      // What stands beside the operations, which are the main part, is to be a part with a name, too.
      InfoContainer: (Info: Component) => (props: unknown) => createElement("section", { "aria-label": "About" }, createElement(Info, props)),
      // The names of the services are headings of the third level, below none of the second.
      operations: (Operations: Component) => (props: unknown) =>
        createElement(Fragment, null, createElement("h2", null, "Services"), createElement(Operations, props)),
    },
    statePlugins: {
      spec: {
        wrapActions: {
          // References are resolved where an operation is opened. Those of the security schemes would be, with the whole document, before
          // the page can be used, and there are none.
          requestResolvedSubtree: (request: (path: string[]) => unknown) => (path: string[]) =>
            path.join() === "components,securitySchemes" ? undefined : request(path),
        },
      },
    },
  };
}
