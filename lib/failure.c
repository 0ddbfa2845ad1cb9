/* SPDX-License-Identifier: MIT */
#include <mqfs/failure.h>

#include <mqfs/meta.h>
#include <mqfs/property.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EXPIRATION_MAX INT64_C(4294967295) /* RabbitMQ's */

/* Headers come from strangers too: counts and times are kept where sums can't overflow. */
#define COUNT_MAX INT64_C(1000000000)

static int64_t count_of(const struct mqfs_table *headers, const char *name, int64_t fallback)
{
	int64_t count = mqfs_headers_integer(headers, name, fallback);

	return count < 0 ? 0 : count > COUNT_MAX ? COUNT_MAX : count;
}

static int64_t time_of(const struct mqfs_table *headers, const char *name, int64_t fallback)
{
	int64_t time_us = mqfs_headers_integer(headers, name, fallback);

	return time_us < 0 ? 0 : time_us;
}

static int64_t seconds_to_us(int64_t seconds)
{
	return seconds < 0 || seconds > INT64_MAX / 1000000 ? 0 : seconds * 1000000;
}

/*
 * One entry of x-death: how often a queue dead-lettered the message for a reason. Only a rejection is a
 * failed attempt; what expired or overflowed was never handled, and what came home from a delay queue of
 * ours was not dead at all.
 */
static void read_death(const struct mqfs_table *death, struct mqfs_history *history)
{
	const char *queue = mqfs_headers_string(death, "queue");
	const char *reason = mqfs_headers_string(death, "reason");
	int64_t time_us = seconds_to_us(mqfs_headers_integer(death, "time", 0));

	if (!reason || (queue && strncmp(queue, "mqfs.", 5) == 0))
		return;
	if (!history->dead_reason) { /* the newest comes first */
		history->dead_reason = reason;
		history->dead_at_us = time_us;
	}
	int64_t count = count_of(death, "count", 1);
	if (count == 0 || (strcmp(reason, "rejected") != 0 && strcmp(reason, "delivery_limit") != 0))
		return;
	history->attempts += count;
	if (time_us > 0 && (history->first_failed_us == 0 || time_us < history->first_failed_us))
		history->first_failed_us = time_us;
	if (time_us > history->last_failed_us)
		history->last_failed_us = time_us;
}

static void read_deaths(const struct mqfs_message *message, struct mqfs_history *history)
{
	const struct mqfs_value *deaths = mqfs_headers_get(&message->headers, "x-death");

	if (!deaths || deaths->kind != 'A')
		return;
	for (size_t i = 0; i < deaths->array.count; i++)
		if (deaths->array.values[i].kind == 'F')
			read_death(&deaths->array.values[i].table, history);
	if (history->attempts > COUNT_MAX)
		history->attempts = COUNT_MAX;
}

static const char *string_of(const struct mqfs_table *headers, const char *name, const char *fallback)
{
	const char *text = mqfs_headers_string(headers, name);

	return text ? text : fallback;
}

int64_t mqfs_published_us(const struct mqfs_message *message)
{
	int64_t stamp = message->timestamp > INT64_MAX ? 0 : (int64_t)message->timestamp;

	return time_of(&message->headers, "mqfs-published", seconds_to_us(stamp));
}

void mqfs_history_read(const struct mqfs_message *message, struct mqfs_history *ret_history)
{
	const struct mqfs_table *headers = &message->headers;
	struct mqfs_history deaths = {0};

	read_deaths(message, &deaths);
	*ret_history = (struct mqfs_history){
	    .attempts = count_of(headers, "mqfs-attempts", deaths.attempts),
	    .max_attempts = count_of(headers, "mqfs-max-attempts", 0),
	    .published_us = mqfs_published_us(message),
	    .first_failed_us = time_of(headers, "mqfs-first-failed", deaths.first_failed_us),
	    .last_failed_us = time_of(headers, "mqfs-last-failed", deaths.last_failed_us),
	    .next_at_us = time_of(headers, "mqfs-next-at", 0),
	    .dead_at_us = time_of(headers, "mqfs-dead-at", deaths.dead_at_us),
	    .dead_reason = string_of(headers, "mqfs-dead-reason", deaths.dead_reason),
	    .error = mqfs_headers_string(headers, "mqfs-error"),
	    .host = mqfs_headers_string(headers, "mqfs-host"),
	};
}

static int new_copy_id(struct mqfs_message *message)
{
	char id[MQFS_UUID_BYTES];

	return mqfs_headers_set_string(&message->headers, "mqfs-copy", mqfs_uuid(id));
}

static int ensure_id(struct mqfs_message *message)
{
	char id[MQFS_UUID_BYTES];

	return message->message_id ? 0 : mqfs_message_set_string(&message->message_id, mqfs_uuid(id));
}

static int move_header(struct mqfs_table *headers, const char *from, const char *to)
{
	const struct mqfs_value *value = mqfs_headers_get(headers, from);
	int r = value ? mqfs_headers_set_value(headers, to, value) : 0;

	if (r == 0)
		mqfs_headers_remove(headers, from);
	return r;
}

static int park_string(struct mqfs_message *message, char **slot, const char *header)
{
	if (!*slot)
		return 0;
	if (mqfs_headers_set_string(&message->headers, header, *slot) < 0)
		return -ENOMEM;
	return mqfs_message_set_string(slot, NULL);
}

int mqfs_message_park_expiration(struct mqfs_message *message)
{
	return park_string(message, &message->expiration, "mqfs-expiration");
}

static int park(struct mqfs_message *message)
{
	if (mqfs_message_park_expiration(message) < 0 || park_string(message, &message->user_id, "mqfs-user-id") < 0 ||
	    move_header(&message->headers, "CC", "mqfs-cc") < 0 ||
	    move_header(&message->headers, "BCC", "mqfs-bcc") < 0)
		return -ENOMEM;
	return 0;
}

/* What the broker counts by itself, and what would speak of the original's life in the copy's. */
static bool is_brokers(const char *name)
{
	return strcmp(name, "x-death") == 0 || strcmp(name, "x-delivery-count") == 0 ||
	       strncmp(name, "x-first-death-", 14) == 0 || strncmp(name, "x-last-death-", 13) == 0;
}

static void drop_brokers(struct mqfs_table *headers)
{
	/* A stranger's table may have a name twice; all that have it go at once. */
	for (size_t i = 0; i < headers->count;) {
		if (is_brokers(headers->fields[i].name))
			mqfs_headers_remove(headers, headers->fields[i].name);
		else
			i++;
	}
}

static void drop(struct mqfs_message *message, const char *const *names)
{
	for (; *names; names++)
		mqfs_headers_remove(&message->headers, *names);
}

/* What all copies have in common. */
static struct mqfs_message *copy_parked(const struct mqfs_message *message)
{
	struct mqfs_message *copy = mqfs_message_copy(message);

	if (!copy)
		return NULL;
	copy->delivery_mode = 2;
	if (park(copy) < 0 || ensure_id(copy) < 0 || new_copy_id(copy) < 0)
		return mqfs_message_free(copy);
	return copy;
}

/* A copy that lives on: without the broker's history, of which mqfs's own headers keep what counts. */
static struct mqfs_message *copy_alive(const struct mqfs_message *message)
{
	static const char *const dead[] = {"mqfs-x-death", "mqfs-dead-at", "mqfs-dead-reason", "mqfs-next-at", NULL};
	struct mqfs_message *copy = copy_parked(message);

	if (!copy)
		return NULL;
	drop_brokers(&copy->headers);
	drop(copy, dead);
	return copy;
}

static int set_time(struct mqfs_message *message, const char *name, int64_t time_us)
{
	return time_us > 0 ? mqfs_headers_set_integer(&message->headers, name, time_us) : 0;
}

static int set_text(struct mqfs_message *message, const char *name, const char *text)
{
	return text ? mqfs_headers_set_string(&message->headers, name, text) : 0;
}

/* Counts and times, so that the copy tells them without x-death. */
static int set_history(struct mqfs_message *copy, const struct mqfs_history *history)
{
	if (history->attempts > 0 && mqfs_headers_set_integer(&copy->headers, "mqfs-attempts", history->attempts) < 0)
		return -ENOMEM;
	if (set_time(copy, "mqfs-first-failed", history->first_failed_us) < 0 ||
	    set_time(copy, "mqfs-last-failed", history->last_failed_us) < 0)
		return -ENOMEM;
	return 0;
}

/* The end of the text says most: that is where a program's last words are. */
static int set_error(struct mqfs_message *copy, const char *error)
{
	size_t bytes = strlen(error);
	size_t skip = bytes > MQFS_REASON_MAX ? bytes - MQFS_REASON_MAX : 0;
	char *text = mqfs_utf8_repair(error + skip, bytes - skip);
	const char *tail = text;
	int r;

	if (!text)
		return -ENOMEM;
	/* What `2>X.error` writes ends in a newline, which says nothing. */
	bytes = strlen(text);
	while (bytes > 0 && (text[bytes - 1] == '\n' || text[bytes - 1] == '\r'))
		text[--bytes] = '\0';
	if (bytes > MQFS_REASON_MAX)
		tail += bytes - MQFS_REASON_MAX;
	while (((unsigned char)*tail & 0xc0) == 0x80)
		tail++;
	r = mqfs_headers_set_string(&copy->headers, "mqfs-error", tail);
	free(text);
	return r;
}

/* An attempt that isn't counted, as when somebody gives up what waits in retry/, leaves times and reason alone. */
static int set_attempt(struct mqfs_message *copy, const struct mqfs_message *message,
                       const struct mqfs_failed_attempt *attempt)
{
	struct mqfs_history history;

	mqfs_history_read(message, &history);
	if (attempt->attempts > history.attempts) {
		history.attempts = attempt->attempts;
		history.last_failed_us = attempt->now_us;
		if (history.first_failed_us == 0)
			history.first_failed_us = attempt->now_us;
		mqfs_headers_remove(&copy->headers, "mqfs-error");
	}
	if (set_history(copy, &history) < 0 || set_text(copy, "mqfs-host", attempt->host) < 0 ||
	    set_text(copy, "mqfs-queue", attempt->queue) < 0)
		return -ENOMEM;
	return attempt->error && attempt->error[0] ? set_error(copy, attempt->error) : 0;
}

struct mqfs_message *mqfs_copy_for_retry(const struct mqfs_message *message, const struct mqfs_failed_attempt *attempt)
{
	struct mqfs_message *copy = copy_alive(message);

	if (!copy)
		return NULL;
	if (set_attempt(copy, message, attempt) < 0 || set_time(copy, "mqfs-next-at", attempt->next_at_us) < 0)
		return mqfs_message_free(copy);
	return copy;
}

struct mqfs_message *mqfs_copy_for_dead(const struct mqfs_message *message, const struct mqfs_failed_attempt *attempt)
{
	struct mqfs_message *copy = copy_parked(message);

	if (!copy)
		return NULL;
	mqfs_headers_remove(&copy->headers, "mqfs-next-at");
	if (move_header(&copy->headers, "x-death", "mqfs-x-death") < 0 || set_attempt(copy, message, attempt) < 0 ||
	    set_time(copy, "mqfs-dead-at", attempt->now_us) < 0 ||
	    set_text(copy, "mqfs-dead-reason", attempt->dead_reason) < 0)
		return mqfs_message_free(copy);
	drop_brokers(&copy->headers);
	return copy;
}

struct mqfs_message *mqfs_copy_for_release(const struct mqfs_message *message, int64_t takes)
{
	struct mqfs_message *copy = copy_alive(message);
	struct mqfs_history history;

	if (!copy)
		return NULL;
	mqfs_history_read(message, &history);
	history.attempts += takes;
	if (set_history(copy, &history) < 0)
		return mqfs_message_free(copy);
	return copy;
}

struct mqfs_message *mqfs_copy_for_dead_again(const struct mqfs_message *message)
{
	struct mqfs_message *copy = mqfs_message_copy(message);
	struct mqfs_history history;

	if (!copy)
		return NULL;
	mqfs_history_read(message, &history);
	copy->delivery_mode = 2;
	if (park(copy) < 0 || move_header(&copy->headers, "x-death", "mqfs-x-death") < 0 ||
	    set_history(copy, &history) < 0 || set_time(copy, "mqfs-dead-at", history.dead_at_us) < 0 ||
	    set_text(copy, "mqfs-dead-reason", history.dead_reason) < 0)
		return mqfs_message_free(copy);
	drop_brokers(&copy->headers);
	return copy;
}

struct mqfs_message *mqfs_copy_for_grant(const struct mqfs_message *message, int64_t next_at_us)
{
	struct mqfs_message *copy = copy_alive(message);
	struct mqfs_history history;

	if (!copy)
		return NULL;
	mqfs_history_read(message, &history);
	if (set_history(copy, &history) < 0 || set_time(copy, "mqfs-next-at", next_at_us) < 0 ||
	    mqfs_headers_set_integer(&copy->headers, "mqfs-max-attempts", history.attempts + 1) < 0)
		return mqfs_message_free(copy);
	return copy;
}

/* The broker closes the channel for an expiration that is none, and a stranger may have written the header. */
static int unpark_expiration(struct mqfs_message *message)
{
	int64_t expiration_ms = mqfs_headers_integer(&message->headers, "mqfs-expiration", -1);
	const char *text = mqfs_headers_string(&message->headers, "mqfs-expiration");
	int r = 0;

	if (text && expiration_ms >= 0 && expiration_ms <= EXPIRATION_MAX)
		r = mqfs_message_set_string(&message->expiration, text);
	mqfs_headers_remove(&message->headers, "mqfs-expiration");
	return r;
}

/* As above: CC and BCC have to be lists of strings. */
static int unpark_list(struct mqfs_message *message, const char *from, const char *to)
{
	const struct mqfs_value *list = mqfs_headers_get(&message->headers, from);
	bool good = list && list->kind == 'A';

	for (size_t i = 0; good && i < list->array.count; i++)
		good = list->array.values[i].kind == 'S';
	if (good)
		return move_header(&message->headers, from, to);
	mqfs_headers_remove(&message->headers, from);
	return 0;
}

static int unpark(struct mqfs_message *message)
{
	if (unpark_expiration(message) < 0 || unpark_list(message, "mqfs-cc", "CC") < 0 ||
	    unpark_list(message, "mqfs-bcc", "BCC") < 0)
		return -ENOMEM;
	return 0;
}

static int set_published(struct mqfs_message *message, int64_t now_us)
{
	message->timestamp = (uint64_t)(now_us / 1000000);
	return mqfs_headers_set_integer(&message->headers, "mqfs-published", now_us);
}

struct mqfs_message *mqfs_copy_afresh(const struct mqfs_message *message, int priority, int64_t now_us)
{
	static const char *const history[] = {
	    "mqfs-attempts", "mqfs-max-attempts", "mqfs-first-failed", "mqfs-last-failed",
	    "mqfs-error",    "mqfs-host",         "mqfs-queue",        NULL};
	struct mqfs_message *copy = copy_alive(message);

	if (!copy)
		return NULL;
	drop(copy, history);
	if (priority >= 0)
		copy->priority = priority;
	if (unpark(copy) < 0 || set_published(copy, now_us) < 0)
		return mqfs_message_free(copy);
	return copy;
}

int mqfs_message_stamp(struct mqfs_message *message, const char *file_name, int64_t now_us)
{
	message->delivery_mode = 2;
	if (ensure_id(message) < 0 || new_copy_id(message) < 0 || set_text(message, "mqfs-filename", file_name) < 0 ||
	    set_published(message, now_us) < 0)
		return -ENOMEM;
	if (message->content_type || !file_name)
		return 0;
	return mqfs_message_set_string(&message->content_type, mqfs_property_guess_content_type(file_name));
}
