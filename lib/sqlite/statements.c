/* SPDX-License-Identifier: MIT */
#include "statements.h"

/* A row is changed only by who holds it as it was seen: its state, its generation and its mount. */
#define FENCE " WHERE id = ?1 AND generation = ?2 AND state = ?3 AND mount IS ?4"

/* A mount lives while its lease runs, in this boot; ?1 boot id, ?2 now, ?3 this mount, which knows by itself. */
#define LIVING "(SELECT id FROM mounts WHERE id = ?3 OR (boot = ?1 AND lease_until >= ?2))"

#define QUEUE_COLUMNS                                                                                                  \
	"id, name, max_priority, message_ttl, max_length, overflow, dead_letter, ready, leased, retry, dead"

/* What message_read() reads. */
#define SELECT_WHOLE                                                                                                   \
	"SELECT m.id, m.generation, m.redelivered, m.deliveries, m.next_at, c.head, c.body"                            \
	" FROM messages m CROSS JOIN contents c ON c.id = m.id"

static const char *const texts[STATEMENTS] = {
    [STATEMENT_BEGIN_READ] = "BEGIN",
    [STATEMENT_BEGIN_WRITE] = "BEGIN IMMEDIATE",
    [STATEMENT_COMMIT] = "COMMIT",
    [STATEMENT_ROLLBACK] = "ROLLBACK",
    [STATEMENT_DATA_VERSION] = "PRAGMA data_version",
    [STATEMENT_SEQUENCE_GET] = "SELECT sequence FROM store",
    [STATEMENT_SEQUENCE_SET] = "UPDATE store SET sequence = ?1",

    [STATEMENT_QUEUE_BY_NAME] = "SELECT " QUEUE_COLUMNS " FROM queues WHERE name = ?1",
    [STATEMENT_QUEUE_BY_ID] = "SELECT " QUEUE_COLUMNS " FROM queues WHERE id = ?1",
    [STATEMENT_QUEUE_INSERT] =
        "INSERT INTO queues (id, name, max_priority, message_ttl, max_length, overflow, dead_letter)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    [STATEMENT_QUEUE_DELETE] = "DELETE FROM queues WHERE id = ?1",
    [STATEMENT_QUEUE_LIST] = "SELECT name FROM queues ORDER BY name",
    [STATEMENT_QUEUE_COUNTS] = "UPDATE queues SET ready = ?2, leased = ?3, retry = ?4, dead = ?5 WHERE id = ?1",

    [STATEMENT_MESSAGE_INSERT] = "INSERT INTO messages (id, generation, queue, state, priority, next_at, expires_at)"
                                 " VALUES (?1, ?1, ?2, ?3, ?4, ?5, ?6)",
    [STATEMENT_MESSAGE_DELETE] = "DELETE FROM messages" FENCE,
    [STATEMENT_MESSAGE_MOVE] =
        "UPDATE messages SET generation = ?5, state = ?6, priority = ?7, next_at = ?8, expires_at = ?9,"
        " mount = NULL, deliveries = 0, redelivered = 0" FENCE,
    [STATEMENT_MESSAGE_RELEASE] = "UPDATE messages SET state = 0, mount = NULL, redelivered = 1" FENCE,
    [STATEMENT_MESSAGE_WAKE] = "UPDATE messages SET state = 0, next_at = NULL" FENCE,
    [STATEMENT_MESSAGE_SET_ASIDE] = "UPDATE messages SET next_at = NULL, expires_at = NULL WHERE id = ?1",
    [STATEMENT_MESSAGE_TAKE] = "UPDATE messages SET state = 1, mount = ?2, generation = ?3 WHERE id = ?1",
    [STATEMENT_MESSAGE_RETRY] = SELECT_WHOLE " WHERE m.queue = ?1 AND m.state = 2 ORDER BY m.id LIMIT ?2",
    [STATEMENT_MESSAGE_DEAD] = SELECT_WHOLE " WHERE m.queue = ?1 AND m.state = 3 ORDER BY m.id LIMIT ?2",
    [STATEMENT_MESSAGE_NEXT] =
        SELECT_WHOLE " WHERE m.queue = ?1 AND m.state = 0 AND (m.expires_at IS NULL OR m.expires_at > ?3)"
                     " ORDER BY m.priority DESC, m.id LIMIT ?2",
    [STATEMENT_MESSAGE_OLDEST] =
        "SELECT id, generation FROM messages WHERE queue = ?1 AND state = 0 AND priority ="
        " (SELECT min(priority) FROM messages WHERE queue = ?1 AND state = 0) ORDER BY id LIMIT 1",

    [STATEMENT_CONTENT_INSERT] = "INSERT INTO contents (id, head, body) VALUES (?1, ?2, ?3)",
    [STATEMENT_CONTENT_DELETE] = "DELETE FROM contents WHERE id = ?1",
    [STATEMENT_CONTENT_GET] = "SELECT head, body FROM contents WHERE id = ?1",
    [STATEMENT_CONTENT_HEAD] = "UPDATE contents SET head = ?2 WHERE id = ?1",
    [STATEMENT_CONTENT_WHOLE] = "UPDATE contents SET head = ?2, body = ?3 WHERE id = ?1",

    [STATEMENT_DUE_NEXT] = "SELECT min(at) FROM (SELECT min(next_at) AS at FROM messages WHERE state = 2 UNION ALL"
                           " SELECT min(expires_at) FROM messages WHERE state = 0 AND expires_at IS NOT NULL)",
    [STATEMENT_DUE_RETRY] = "SELECT id, generation, queue FROM messages WHERE state = 2 AND next_at <= ?1 LIMIT ?2",
    [STATEMENT_DUE_EXPIRED] =
        "SELECT id, generation, queue FROM messages WHERE state = 0 AND expires_at IS NOT NULL AND expires_at <= ?1"
        " LIMIT ?2",

    [STATEMENT_MOUNT_INSERT] = "INSERT INTO mounts (id, boot, lease_until, pid) VALUES (?1, ?2, ?3, ?4)",
    [STATEMENT_MOUNT_RENEW] = "UPDATE mounts SET lease_until = ?2 WHERE id = ?1",
    [STATEMENT_MOUNT_DELETE] = "DELETE FROM mounts WHERE id = ?1",
    [STATEMENT_MOUNT_SWEEP] = "DELETE FROM mounts WHERE id NOT IN " LIVING,
    [STATEMENT_LEASED_LOST] =
        "SELECT queue, count(*) FROM messages WHERE state = 1 AND mount NOT IN " LIVING " GROUP BY queue",
    [STATEMENT_LEASED_FREE] =
        "UPDATE messages SET state = 0, mount = NULL, redelivered = 1, deliveries = deliveries + 1"
        " WHERE state = 1 AND mount NOT IN " LIVING,
    [STATEMENT_LEASED_RETURN] =
        "UPDATE messages SET state = 0, mount = NULL, redelivered = 1 WHERE state = 1 AND mount = ?1 AND queue = ?2",
    [STATEMENT_CONSUMER_INSERT] = "INSERT OR IGNORE INTO consumers (mount, queue) VALUES (?1, ?2)",
    [STATEMENT_CONSUMER_CLEAR] = "DELETE FROM consumers WHERE mount = ?1",
    [STATEMENT_CONSUMER_SWEEP] = "DELETE FROM consumers WHERE mount NOT IN (SELECT id FROM mounts)",
    [STATEMENT_CONSUMER_COUNT] = "SELECT count(*), count(CASE WHEN mount <> ?3 THEN 1 END) FROM consumers"
                                 " WHERE queue = ?4 AND mount IN " LIVING,
    [STATEMENT_CONSUMER_FORGET] = "DELETE FROM consumers WHERE queue = ?1",
};

int statements_prepare(sqlite3 *db, sqlite3_stmt *statements[STATEMENTS])
{
	for (int i = 0; i < STATEMENTS; i++)
		if (sqlite3_prepare_v3(db, texts[i], -1, SQLITE_PREPARE_PERSISTENT, &statements[i], NULL) != SQLITE_OK)
			return statement_errno(db);
	return 0;
}

void statements_finalize(sqlite3_stmt *statements[STATEMENTS])
{
	for (int i = 0; i < STATEMENTS; i++) {
		sqlite3_finalize(statements[i]);
		statements[i] = NULL;
	}
}
