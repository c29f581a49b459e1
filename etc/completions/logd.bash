# Completion of logd for bash. The words come from the installed program's own `logd help`, so they are always its own.
_logd() {
    local cur=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]} words=
    if [[ $cur = -* ]]; then
        words=$("$1" help "$command" 2>/dev/null | grep -Eo '^ +(-[a-z], )?--[a-z-]+' | awk '{ print $NF }')
    elif ((COMP_CWORD == 1)) || { [[ $command = help ]] && ((COMP_CWORD == 2)); }; then
        words=$("$1" help 2>/dev/null | awk '/^  [a-z]/ { print $1; if (sub(",", "", $1)) print $2 }')
        words=${words//,/}
    elif ((COMP_CWORD == 2)); then
        # A first argument that is written in small letters is one of these words: check|ls|retry.
        words=$("$1" help "$command" 2>/dev/null |
            awk '/^usage:/ && $5 ~ /^[a-z|]+$/ { gsub("[|]", " ", $5); print $5 }')
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
# Where there are no words, files.
complete -o default -F _logd logd
