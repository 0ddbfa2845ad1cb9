/* SPDX-License-Identifier: MIT */
#include <mqfs/meta.h>

#include "json.h"

#include <mqfs/clock.h>
#include <mqfs/failure.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int put_text(cJSON *object, const char *key, const char *text)
{
	return json_put(object, key, text ? json_from_text(text, strlen(text)) : cJSON_CreateNull());
}

static int put_integer(cJSON *object, const char *key, int64_t number)
{
	return json_put(object, key, json_from_integer(number));
}

/* 0 is "unknown". */
static int put_time(cJSON *object, const char *key, int64_t time_us)
{
	char text[MQFS_RFC3339_BYTES];

	return put_text(object, key, time_us > 0 ? mqfs_clock_rfc3339(time_us, text) : NULL);
}

static const char *state_of(const struct mqfs_delivery *delivery)
{
	if (delivery->place == MQFS_PLACE_RETRY)
		return "retry";
	if (delivery->place == MQFS_PLACE_DEAD)
		return "dead";
	return delivery->state == MQFS_DELIVERY_PENDING ? "pending" : "claimed";
}

/* The monotonic end of a claim, for people. */
static int64_t expires_us(const struct mqfs_delivery *delivery)
{
	int64_t left_ms;

	if (delivery->claimed_us == 0 || delivery->expires_ms == MQFS_NEVER)
		return 0;
	left_ms = delivery->expires_ms - mqfs_clock_monotonic_ms();
	return mqfs_clock_realtime_us() + left_ms * 1000;
}

/* What is the message's own: who it is, and where. */
static int put_identity(cJSON *meta, const struct mqfs_delivery *delivery)
{
	const struct mqfs_message *message = delivery->message;

	if (put_text(meta, "id", message->message_id) < 0 || put_text(meta, "queue", delivery->queue) < 0 ||
	    put_text(meta, "state", state_of(delivery)) < 0 ||
	    json_put(meta, "priority",
	             message->priority < 0 ? cJSON_CreateNull() : json_from_integer(message->priority)) < 0)
		return -ENOMEM;
	return 0;
}

static int put_history(cJSON *meta, const struct mqfs_delivery *delivery, const struct mqfs_settings *settings)
{
	bool retry = delivery->place == MQFS_PLACE_RETRY, dead = delivery->place == MQFS_PLACE_DEAD;
	bool claimed = delivery->place == MQFS_PLACE_READY && delivery->state != MQFS_DELIVERY_PENDING;
	int64_t next_at_us = delivery->next_at_us;
	struct mqfs_history history;

	mqfs_history_read(delivery->message, &history);
	if (next_at_us == 0)
		next_at_us = history.next_at_us;
	if (put_integer(meta, "attempts", history.attempts + delivery->takes + claimed) < 0 ||
	    put_integer(meta, "max_attempts", history.max_attempts ? history.max_attempts : settings->max_attempts) <
	        0 ||
	    put_time(meta, "published_at", history.published_us) < 0 ||
	    put_time(meta, "first_failed_at", history.first_failed_us) < 0 ||
	    put_time(meta, "last_failed_at", history.last_failed_us) < 0 ||
	    put_time(meta, "next_at", retry ? next_at_us : 0) < 0 ||
	    put_time(meta, "dead_at", dead ? history.dead_at_us : 0) < 0 ||
	    put_text(meta, "dead_reason", dead ? history.dead_reason : NULL) < 0 ||
	    put_text(meta, "error", delivery->error ? delivery->error : history.error) < 0 ||
	    put_text(meta, "host", history.host) < 0)
		return -ENOMEM;
	return 0;
}

static int put_claim(cJSON *meta, const struct mqfs_delivery *delivery)
{
	if (json_put(meta, "redelivered", cJSON_CreateBool(delivery->redelivered)) < 0 ||
	    put_text(meta, "claimed_by", delivery->claimed_by[0] ? delivery->claimed_by : NULL) < 0 ||
	    put_time(meta, "claimed_at", delivery->claimed_us) < 0 ||
	    put_time(meta, "expires_at", expires_us(delivery)) < 0)
		return -ENOMEM;
	return 0;
}

static int put_present(cJSON *object, const char *key, const char *text)
{
	return text ? put_text(object, key, text) : 0;
}

static cJSON *properties(const struct mqfs_message *message)
{
	cJSON *object = cJSON_CreateObject();

	if (!object)
		return NULL;
	if (put_present(object, "content_type", message->content_type) < 0 ||
	    put_present(object, "content_encoding", message->content_encoding) < 0 ||
	    put_present(object, "correlation_id", message->correlation_id) < 0 ||
	    put_present(object, "reply_to", message->reply_to) < 0 ||
	    put_present(object, "expiration", message->expiration) < 0 ||
	    put_present(object, "message_id", message->message_id) < 0 ||
	    put_present(object, "type", message->type) < 0 || put_present(object, "user_id", message->user_id) < 0 ||
	    put_present(object, "app_id", message->app_id) < 0 ||
	    (message->timestamp > 0 && put_integer(object, "timestamp", (int64_t)message->timestamp) < 0) ||
	    (message->delivery_mode > 0 && put_integer(object, "delivery_mode", message->delivery_mode) < 0)) {
		cJSON_Delete(object);
		return NULL;
	}
	return object;
}

/* mqfs's own headers are told by the keys of meta.json, but for the file name, which has none. */
static bool is_shown(const char *name)
{
	if (strncmp(name, "mqfs-", 5) == 0)
		return strcmp(name, "mqfs-filename") == 0;
	return strcmp(name, "x-death") != 0;
}

static cJSON *headers(const struct mqfs_message *message)
{
	cJSON *object = cJSON_CreateObject();

	for (size_t i = 0; object && i < message->headers.count; i++) {
		const struct mqfs_field *field = &message->headers.fields[i];

		if (is_shown(field->name) && json_put(object, field->name, json_from_value(&field->value)) < 0) {
			cJSON_Delete(object);
			return NULL;
		}
	}
	return object;
}

static cJSON *deaths(const struct mqfs_message *message)
{
	const struct mqfs_value *found = mqfs_headers_get(&message->headers, "x-death");

	if (!found)
		found = mqfs_headers_get(&message->headers, "mqfs-x-death");
	return found && found->kind == 'A' ? json_from_value(found) : cJSON_CreateArray();
}

static char *print_line(const cJSON *meta)
{
	char *text = cJSON_Print(meta), *line;
	size_t bytes;

	if (!text)
		return NULL;
	bytes = strlen(text);
	line = realloc(text, bytes + 2);
	if (!line) {
		free(text);
		return NULL;
	}
	memcpy(line + bytes, "\n", 2);
	return line;
}

char *mqfs_meta_json(const struct mqfs_delivery *delivery, const struct mqfs_settings *settings)
{
	const struct mqfs_message *message = delivery->message;
	cJSON *meta = cJSON_CreateObject();
	char *text = NULL;

	if (meta && put_identity(meta, delivery) == 0 && put_history(meta, delivery, settings) == 0 &&
	    put_claim(meta, delivery) == 0 && json_put(meta, "properties", properties(message)) == 0 &&
	    json_put(meta, "headers", headers(message)) == 0 && json_put(meta, "x_death", deaths(message)) == 0)
		text = print_line(meta);
	cJSON_Delete(meta);
	return text;
}
