import { frame } from "./en/frame";
import { messages } from "./en/messages";
import { schedules } from "./en/schedules";
import { stores } from "./en/stores";

/** Every text of the console. Chinese has the same keys, which the compiler checks. */
export const en = { ...frame, ...messages, ...schedules, ...stores };
