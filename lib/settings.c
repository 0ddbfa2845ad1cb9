/* SPDX-License-Identifier: MIT */
#include <mqfs/settings.h>

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum kind { INTEGER, REAL, TIME, SECONDS, SIZE, BOOLEAN, CHOICE };

struct unit {
	const char *name;
	int64_t factor;
};

/* Each ends in the unit that a bare number has. The biggest that divides a value is what get writes. */
static const struct unit times[] = {{"h", 3600000}, {"min", 60000}, {"s", 1000}, {"ms", 1}, {"", 1000}, {NULL, 0}};
static const struct unit sizes[] = {{"M", 1 << 20}, {"K", 1 << 10}, {"", 1}, {NULL, 0}};
static const struct unit plain[] = {{"", 1}, {NULL, 0}};
static const struct unit *const units[] = {
    [INTEGER] = plain, [REAL] = plain, [TIME] = times, [SECONDS] = times, [SIZE] = sizes};

static const char *const queue_types[] = {"classic", "quorum", NULL};
static const char *const overflows[] = {"default", "drop-head", "reject-publish", NULL};
static const char *const ack_ons[] = {"rm", "read", NULL};
static const char *const take_ons[] = {"open", "move", NULL};

struct row {
	struct mqfs_setting setting;
	enum kind kind;
	size_t offset;
	double fallback;
	int64_t low, high; /* bounds, in the unit of the field */
	const char *const *choices;
};

#define SECOND INT64_C(1000)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define MONTH (30 * DAY)
#define MIB (INT64_C(1) << 20)
#define TTL_MAX INT64_C(4294967295) /* RabbitMQ's bound of x-message-ttl */

#define LIVE (MQFS_SETTING_QUEUE | MQFS_SETTING_RUNTIME)
#define DECLARE (MQFS_SETTING_QUEUE | MQFS_SETTING_DECLARE)
#define MOUNT MQFS_SETTING_MOUNT

#define ROW(kind_, name, scope, field, fallback_, help)                                                                \
	.setting = {name, scope, help}, .kind = kind_, .offset = offsetof(struct mqfs_settings, field),                \
	.fallback = fallback_
#define NUMBER(kind, name, scope, field, fallback, low_, high_, help)                                                  \
	{                                                                                                              \
		ROW(kind, name, scope, field, fallback, help), .low = low_, .high = high_                              \
	}
#define YES_NO(name, scope, field, fallback, help)                                                                     \
	{                                                                                                              \
		ROW(BOOLEAN, name, scope, field, fallback, help)                                                       \
	}
#define ONE_OF(words, name, scope, field, fallback, help)                                                              \
	{                                                                                                              \
		ROW(CHOICE, name, scope, field, fallback, help), .choices = words                                      \
	}

static const struct row rows[] = {
    /* publishing */
    NUMBER(INTEGER, "priority", LIVE, priority, 0, 0, 255, "priority of what is written to new/, 0..255"),
    NUMBER(SIZE, "max-body", LIVE, max_body_bytes, MIB, 1, 512 * MIB, "the largest body, 1..512M"),
    NUMBER(TIME, "publish-timeout", LIVE, publish_timeout_ms, 10 * SECOND, 1, HOUR,
           "how long close() waits for the confirm, 1ms..1h"),
    NUMBER(TIME, "rename-timeout", LIVE, rename_timeout_ms, SECOND, 1, MINUTE,
           "how long a rename waits for the confirm, 1ms..1min"),
    NUMBER(INTEGER, "max-drafts", LIVE, max_drafts, 10000, 1, 1000000,
           "drafts kept or being written in one queue, 1..1000000"),
    /* consuming */
    NUMBER(INTEGER, "prefetch", LIVE, prefetch, 16, 1, 65535, "messages in pending/ and claimed/ together, 1..65535"),
    NUMBER(TIME, "claim-timeout", LIVE, claim_timeout_ms, 25 * MINUTE, SECOND, MONTH,
           "a claim ends so long after its take or last touch, 1s..720h"),
    NUMBER(TIME, "pending-timeout", LIVE, pending_timeout_ms, 4 * MINUTE, SECOND, MONTH,
           "what lies untaken for so long goes back, 1s..720h"),
    NUMBER(TIME, "idle-release", LIVE, idle_release_ms, MINUTE, SECOND, MONTH,
           "consuming stops when nobody looked for so long, 1s..720h"),
    NUMBER(TIME, "consumer-timeout", LIVE, consumer_timeout_ms, 30 * MINUTE, 2 * MINUTE, MONTH,
           "the broker's consumer_timeout, 2min..720h"),
    ONE_OF(ack_ons, "ack-on", LIVE, ack_on, MQFS_ACK_ON_RM, "what acknowledges a message: rm or read"),
    ONE_OF(take_ons, "take-on", LIVE, take_on, MQFS_TAKE_ON_OPEN, "what takes a message: open or move"),
    /* failing */
    NUMBER(INTEGER, "max-attempts", LIVE, max_attempts, 8, 1, 1000, "failed attempts until a message is dead, 1..1000"),
    NUMBER(TIME, "backoff-base", LIVE, backoff_base_ms, SECOND, 1, DAY,
           "the wait after the first failed attempt, 1ms..24h"),
    NUMBER(REAL, "backoff-factor", LIVE, backoff_factor, 2, 1, 100, "how much longer each further wait is, 1..100"),
    NUMBER(TIME, "backoff-max", LIVE, backoff_max_ms, HOUR, 1, 20 * DAY, "the longest wait, 1ms..480h"),
    NUMBER(INTEGER, "look-max", LIVE, look_max, 1000, 1, 100000,
           "messages that a look at retry/ or dead/ shows, 1..100000"),
    /* what mkdir declares */
    ONE_OF(queue_types, "type", DECLARE, type, MQFS_QUEUE_CLASSIC, "classic or quorum"),
    NUMBER(INTEGER, "max-priority", DECLARE, max_priority, 10, 0, 255, "priorities of a classic queue, 0 (none)..255"),
    YES_NO("lazy", DECLARE, lazy, false, "keep messages on disk (RabbitMQ before 3.12): yes or no"),
    NUMBER(TIME, "message-ttl", DECLARE, message_ttl_ms, 0, 0, TTL_MAX,
           "messages expire after so long, 0 (never)..1193h"),
    NUMBER(INTEGER, "max-length", DECLARE, max_length, 0, 0, 1000000000,
           "the most ready messages, 0 (no limit)..1000000000"),
    ONE_OF(overflows, "overflow", DECLARE, overflow, MQFS_OVERFLOW_REJECT_PUBLISH,
           "of a full queue: reject-publish, drop-head or default (the broker's)"),
    YES_NO("dead-letter", DECLARE, dead_letter, false, "the broker's own dead arrive in dead/ too: yes or no"),
    YES_NO("delete-unsafe", LIVE, delete_unsafe, false,
           "rmdir also where the broker can't check and delete in one step: yes or no"),
    /* of the mount */
    NUMBER(TIME, "connect-timeout", MOUNT, connect_timeout_ms, 10 * SECOND, 100, HOUR,
           "the whole of the first connection, 100ms..1h"),
    NUMBER(SECONDS, "heartbeat", MOUNT, heartbeat_ms, 10 * SECOND, SECOND, HOUR, "of AMQP, in whole seconds, 1s..1h"),
    NUMBER(TIME, "lease-timeout", MOUNT, lease_timeout_ms, 10 * SECOND, SECOND, HOUR,
           "SQLite: a mount silent for so long loses its messages, 1s..1h"),
    NUMBER(INTEGER, "workers", MOUNT, workers, 4, 1, 64, "threads that serve the kernel, 1..64"),
    YES_NO("outbox", MOUNT, outbox, true, "keep what the broker can't take now, and send it later: yes or no"),
    NUMBER(SIZE, "outbox-max", MOUNT, outbox_max_bytes, 256 * MIB, 64 << 10, 1024 * 1024 * MIB,
           "what the outbox and kept drafts may take on the disk, 64K..1048576M"),
    NUMBER(TIME, "settled-ttl", MOUNT, settled_ttl_ms, DAY, SECOND, MONTH,
           "how long an outcome is remembered that the broker could not be told, 1s..720h"),
    NUMBER(TIME, "drain-timeout", MOUNT, drain_timeout_ms, 30 * SECOND, 0, HOUR,
           "how long the end of a mount waits for what is under way, 0..1h"),
};

#define ROWS (sizeof(rows) / sizeof(rows[0]))

static const struct row *find(const char *name)
{
	for (size_t i = 0; i < ROWS; i++)
		if (strcmp(rows[i].setting.name, name) == 0)
			return &rows[i];
	return NULL;
}

const struct mqfs_setting *mqfs_setting_at(size_t index)
{
	return index < ROWS ? &rows[index].setting : NULL;
}

const struct mqfs_setting *mqfs_setting_find(const char *name)
{
	const struct row *row = find(name);

	return row ? &row->setting : NULL;
}

/* The one place that knows the field's C type from its kind; enums are as wide as unsigned. */
static void store(const struct row *row, struct mqfs_settings *settings, double value)
{
	void *field = (char *)settings + row->offset;

	switch (row->kind) {
	case REAL:
		*(double *)field = value;
		break;
	case BOOLEAN:
		*(bool *)field = value != 0;
		break;
	case CHOICE:
		*(unsigned *)field = (unsigned)value;
		break;
	default:
		*(int64_t *)field = (int64_t)value;
	}
}

void mqfs_settings_init(struct mqfs_settings *settings)
{
	memset(settings, 0, sizeof(*settings));
	for (size_t i = 0; i < ROWS; i++)
		store(&rows[i], settings, rows[i].fallback);
}

/* Decimal digits with at most one point: strtod alone would take "inf", "nan", "1e9" and "0x10" too. */
static int parse_number(const char *text, const char **ret_end, double *ret_number)
{
	size_t digits = strspn(text, "0123456789.");
	char *end;
	double number = strtod(text, &end);

	if (digits == 0 || end != text + digits)
		return -EINVAL;
	*ret_end = end;
	*ret_number = number;
	return 0;
}

/* Integers within the bounds are below 2^53, and so exact; "1.001s" is off by what a double can't hold. */
static bool is_whole(const struct row *row, double *number)
{
	double whole = nearbyint(*number);

	if (fabs(*number - whole) > 1e-6)
		return false;
	*number = whole;
	return row->kind != SECONDS || fmod(whole, SECOND) == 0;
}

static int parse_scaled(const struct row *row, const char *text, double *ret_value)
{
	const struct unit *unit = units[row->kind];
	const char *end;
	double number;
	int r = parse_number(text, &end, &number);

	if (r < 0)
		return r;
	while (isspace((unsigned char)*end))
		end++;
	while (unit->name && strcmp(unit->name, end) != 0)
		unit++;
	if (!unit->name)
		return -EINVAL;
	number *= (double)unit->factor;
	if (!(number >= (double)row->low && number <= (double)row->high))
		return -ERANGE;
	if (row->kind != REAL && !is_whole(row, &number))
		return -EINVAL;
	*ret_value = number;
	return 0;
}

static int parse_choice(const char *const *choices, const char *text, double *ret_value)
{
	for (size_t i = 0; choices[i]; i++) {
		if (strcmp(choices[i], text) == 0) {
			*ret_value = (double)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int parse_boolean(const char *text, double *ret_value)
{
	static const char *const words[] = {"no", "yes", "false", "true", "0", "1", "off", "on"};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		if (strcasecmp(words[i], text) == 0) {
			*ret_value = (double)(i % 2);
			return 0;
		}
	}
	return -EINVAL;
}

static int parse(const struct row *row, const char *text, double *ret_value)
{
	switch (row->kind) {
	case BOOLEAN:
		return parse_boolean(text, ret_value);
	case CHOICE:
		return parse_choice(row->choices, text, ret_value);
	default:
		return parse_scaled(row, text, ret_value);
	}
}

/* Drops surrounding white space. False when it doesn't fit: no good value is so long. */
static bool trim(const char *text, char *buffer, size_t bytes)
{
	size_t length;

	while (isspace((unsigned char)*text))
		text++;
	length = strlen(text);
	while (length > 0 && isspace((unsigned char)text[length - 1]))
		length--;
	if (length >= bytes)
		return false;
	memcpy(buffer, text, length);
	buffer[length] = '\0';
	return true;
}

static void explain(const char **ret_error, const struct row *row, const char *problem)
{
	static _Thread_local char text[192];

	if (!ret_error)
		return;
	snprintf(text, sizeof(text), "%s: %s (%s)", row->setting.name, problem, row->setting.help);
	*ret_error = text;
}

int mqfs_settings_set(struct mqfs_settings *settings, const char *name, const char *value, const char **ret_error)
{
	const struct row *row = find(name);
	char text[64];
	double parsed;
	int r;

	if (!row) {
		if (ret_error)
			*ret_error = "no such setting";
		return -ENOENT;
	}
	r = trim(value, text, sizeof(text)) ? parse(row, text, &parsed) : -EINVAL;
	if (r < 0) {
		explain(ret_error, row, r == -ERANGE ? "out of bounds" : "not a good value");
		return -EINVAL;
	}
	store(row, settings, parsed);
	return 0;
}

static int format_scaled(int64_t value, const struct unit *unit, char *buffer, size_t bytes)
{
	while (unit->name[0] && (value == 0 || value % unit->factor != 0))
		unit++;
	return snprintf(buffer, bytes, "%" PRId64 "%s", value / unit->factor, unit->name);
}

int mqfs_settings_get(const struct mqfs_settings *settings, const char *name, char *buffer, size_t bytes)
{
	const struct row *row = find(name);
	const void *field;

	if (!row)
		return -ENOENT;
	field = (const char *)settings + row->offset;
	switch (row->kind) {
	case REAL:
		return snprintf(buffer, bytes, "%.15g", *(const double *)field);
	case BOOLEAN:
		return snprintf(buffer, bytes, "%s", *(const bool *)field ? "yes" : "no");
	case CHOICE:
		return snprintf(buffer, bytes, "%s", row->choices[*(const unsigned *)field]);
	default:
		return format_scaled(*(const int64_t *)field, units[row->kind], buffer, bytes);
	}
}
