//! The \`raftkv\` command.
