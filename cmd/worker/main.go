// Command worker runs the handlers of messages and the periodic work.
package main

import "plinth/internal/app"

func main() { app.Main(app.Worker) }
