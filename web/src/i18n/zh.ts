import { frame } from "./zh/frame";
import { messages } from "./zh/messages";
import { schedules } from "./zh/schedules";
import { stores } from "./zh/stores";
import type { Dictionary } from ".";

export const zh: Dictionary = { ...frame, ...messages, ...schedules, ...stores };
