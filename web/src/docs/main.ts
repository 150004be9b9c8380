import "./policy";

// The library is 1.5 MB of script. What stands on the page is drawn before that is run, which takes a slow phone a second.
requestAnimationFrame(() => setTimeout(() => void import("./library")));
