"""Words of the generated corpus, by kind: enough of English and French for the vocabulary to be a general one."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words(
    """
    Nick Cole Juraj Lane Kirby Alex Josh Jake Mike Kaiden Sam Brendan Patrik Ivan Auston Connor Sidney
    David Brady Leon Nathan Cale Nikita Dylan Jakub Arber Jayden Oliver Joel Carey Guy Maurice Jean Saku
    Andrei Max Tomas Zachary Émile Éric José Mathieu Rémi Noah Oskar Anton Filip Jesper Elias William
    Marie Sarah Émilie Chloé
    """
)
LAST_NAMES = _words(
    """
    Suzuki Caufield Slafkovský Hutson Dach Newhook Anderson Evans Matheson Guhle Montembeault Gallagher
    Laine Demidov Matthews McDavid Crosby Pastrnak Tkachuk Draisaitl MacKinnon Makar Kucherov Larkin
    Dobeš Xhekaj Struble Kapanen Armia Price Lafleur Richard Béliveau Koivu Markov Pacioretty Plekanec
    Bolduc Lafrenière Carrier Beaudoin Heineman Savard Barré Roy Dryden Robinson Harvey Plante Tremblay
    Gagnon Bouchard Côté Fortin Lévesque Poulin
    """
)
OPPONENTS = _words(
    """
    Boston Toronto Ottawa Detroit Buffalo Tampa Florida Edmonton Calgary Vancouver Winnipeg Chicago
    Colorado Dallas Nashville Washington Pittsburgh Philadelphia Carolina Columbus Minnesota Seattle
    Vegas Utah
    """
)
NOUNS = _words(
    """
    goal game season player team coach captain goalie defence forward rookie veteran puck stick net rink
    ice arena crowd bench line shift pass shot save rebound penalty whistle referee score point win loss
    streak record trophy banner history story article column archive commentary rule league club city
    night morning week month year date number figure statistic average split total answer question word
    instruction prompt secret key password database table row query search result list chart report
    source fact rumour trade contract injury draft pick prospect coffee weather recipe flight car phone
    dog doctor knee tax bank election poem essay horoscope bet money computer website code train bus
    street river mountain snow winter summer lake house door window kitchen garden market school book
    letter song film picture friend mother father brother grandmother child boss neighbour teacher
    journalist analyst fan partisan developer assistant owner
    """
)
ADJECTIVES = _words(
    """
    fast slow strong young old new early late long short hot cold calm loud quiet first last next home
    away recent famous good better best bad big small full empty clear hard easy true false plausible
    regular special sharp brave lucky tired happy sad French English local general medical real whole
    half double even
    """
)
VERBS = _words(
    """
    scored saved passed blocked won lost tied played watched read wrote asked answered looked found
    missed gave took made said told named called returned brought held kept left stood crossed opened
    closed started ended traded signed drafted treated announced published invented guessed ignored
    repeated showed compared counted needed
    """
)
ADVERBS = _words(
    """
    quickly again tonight yesterday today together alone early late often never always only also still
    already soon well badly briefly gladly plainly here there away back home
    """
)
PREPOSITIONS = _words(
    """
    in on at with without against for from near after before behind over under about
    """
)
PLACES = _words(
    """
    zone corner dressing-room locker-room Forum Bell-Centre stands box crease slot street office archive
    newspaper city rink arena
    """
)
NOMS = _words(
    """
    but match saison joueur équipe entraîneur capitaine gardien défenseur attaquant recrue rondelle
    bâton filet patinoire glace foule banc trio passe tir arrêt pénalité arbitre point victoire défaite
    série record trophée bannière histoire récit article chronique archive règlement ligue club ville
    soir matin semaine mois date chiffre statistique moyenne fiche réponse question consigne règle
    secret donnée tableau résultat liste source fait rumeur échange contrat blessure choix espoir café
    météo recette vol auto téléphone chien médecin dos impôt banque élection poème devoir rivière
    montagne neige hiver été maison porte école livre lettre chanson ami mère père frère journaliste
    analyste partisan usager domicile étranger avantage désavantage
    """
)
ADJECTIFS = _words(
    """
    rapide lent fort jeune vieux nouveau court long chaud froid calme célèbre bon meilleur mauvais grand
    petit plein clair dur facile vrai faux prochain dernier premier
    """
)
VERBES = _words(
    """
    marqué arrêté passé bloqué gagné perdu joué regardé lu écrit demandé répondu trouvé manqué donné
    pris fait dit nommé appelé ramené tenu gardé laissé ouvert fermé échangé signé publié inventé deviné
    montré compté cherché
    """
)
KEYS = _words(
    """
    player team season opponent date split table category name city column limit order goals assists
    points gp games wins losses shots hits save_pct gaa shutouts text title rows matches sample source
    home away total rank id
    """
)
FUNCTIONS = _words(
    """
    count_goals load_table find_games sort_rows plot read_file get_team open_page list_files average
    top_rows make_chart fetch lookup send_mail parse_date build_index show_map
    """
)
OPENERS = tuple(
    phrase.strip()
    for phrase in [
        "Yes",
        " No",
        " Gladly",
        " Of course",
        " Sure",
        " Well",
        " Not quite",
        " Any time",
        " That is so",
        " I see",
        " Look",
        " Ask me",
        " Tell me",
        " Nothing",
        " One moment",
        " Here it is",
        " Which one",
        " Whose",
        " Good",
        " Hello",
        " Thanks",
        " Sorry",
    ]
)
OUVERTURES = tuple(
    phrase.strip()
    for phrase in [
        "Oui",
        " Non",
        " Bien sûr",
        " De rien",
        " Voici",
        " Jamais",
        " Rien",
        " Lequel",
        " Pour quelle saison",
        " Dis-moi",
        " Bonjour",
        " Salut",
        " Merci",
        " Désolé",
        " C'est vrai",
        " C'est faux",
        " Ça va",
        " Je reste là",
        " Pas de donnée",
        " Selon moi",
    ]
)
PERSONAS = {
    "Marcel": "a hockey historian",
    "Odile": "a librarian",
    "Bruno": "a travel guide",
    "Ida": "a cook",
    "Walter": "a statistics teacher",
    "Greta": "a sports reporter",
    "Hugo": "an analyst of football",
    "Pierre": "an archivist",
    "Nora": "a referee",
    "Felix": "a radio host",
    "Yvette": "a museum guide",
}

# Syllables of coined words.
ONSETS = ("", *_words("b c ch d dr f g gr h j k l m n p pl qu r s sk st t tr v w x z"))
VOWELS = _words("a e i o u ai ea ou é")
CODAS = ("", "", *_words("b ck d g l m n nd p r rt s ss t x"))
